# Private names: the proxy finds MLflow as mlflow.hokusai-<environment>.local, whatever its address.

resource "aws_service_discovery_private_dns_namespace" "this" {
  name        = "${local.name}.local"
  description = "MLflow and its proxy, ${var.environment}"
  vpc         = var.vpc_id
}

resource "aws_service_discovery_service" "proxy" {
  name        = "mlflow-proxy"
  description = "The MLflow proxy, port ${local.proxy_port}"

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 10
    }
  }

  # ECS registers tasks, and takes out those that fail their container's health check.
  health_check_custom_config {
    failure_threshold = 1
  }
}

resource "aws_service_discovery_service" "mlflow" {
  name        = "mlflow"
  description = "MLflow, port ${local.mlflow_port}"

  dns_config {
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 10
    }
  }

  health_check_custom_config {
    failure_threshold = 1
  }
}

locals {
  # What the proxy connects to, and so the Host header that MLflow sees and must allow.
  mlflow_host = "${aws_service_discovery_service.mlflow.name}.${aws_service_discovery_private_dns_namespace.this.name}:${local.mlflow_port}"
  mlflow_url  = "http://${local.mlflow_host}"
}
