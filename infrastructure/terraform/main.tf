# The proxy in front of MLflow on AWS. What stands where:
#   alb.tf, alb-listener-rules.tf   the load balancer, and which paths it lets through
#   service-discovery.tf            the private names of proxy and MLflow
#   ecs-*.tf                        what runs, with which rights, how much of it
#   security-groups.tf              who may talk to whom
#   redis.tf                        ElastiCache, if wanted
#   monitoring.tf                   logs, alarms, dashboard

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # bucket, key and region: terraform init -backend-config=<environment>.s3.tfbackend. Encrypted, for
  # the state holds a secret.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Application = "hokusai-mlflow-proxy"
      Environment = var.environment
    }
  }
}

# Version 0.1.0 kept all resources in this module. Those that were not moved out of it (README.md) are
# forgotten, never destroyed.
removed {
  from = module.mlflow

  lifecycle {
    destroy = false
  }
}

data "aws_partition" "current" {}

locals {
  name = "hokusai-${var.environment}"

  # Routes, ports and time-outs, shared with everything else that needs them.
  contract = jsondecode(file("${path.module}/../routes.json"))
  routes   = { for route in local.contract.routes : route.name => route }
  timeouts = local.contract.timeouts
  host     = coalesce(var.public_host, local.contract.host)

  proxy_port  = local.contract.proxy.port
  mlflow_port = local.contract.mlflow.port
  redis_port  = local.contract.redis.port

  auth_service_port = try(
    tonumber(regex("^https?://[^/]+:([0-9]+)", var.auth_service_url)[0]),
    startswith(var.auth_service_url, "https:") ? 443 : 80,
  )

  # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
  fargate_memory = {
    "256"   = [512, 1024, 2048]
    "512"   = range(1024, 4096 + 1, 1024)
    "1024"  = range(2048, 8192 + 1, 1024)
    "2048"  = range(4096, 16384 + 1, 1024)
    "4096"  = range(8192, 30720 + 1, 1024)
    "8192"  = range(16384, 61440 + 1, 4096)
    "16384" = range(32768, 122880 + 1, 8192)
  }
}
