# Who may talk to whom: the load balancer to the proxy, the proxy to MLflow and Redis. Nobody else
# reaches any of them. Rules are resources of their own, so a plan shows each that comes or goes.

resource "aws_security_group" "alb" {
  count = var.existing_alb == null ? 1 : 0

  name        = "${local.name}-alb"
  description = "The load balancer in front of the MLflow proxy"
  vpc_id      = var.vpc_id
  tags        = { Name = "${local.name}-alb" }
}

resource "aws_security_group" "proxy" {
  name        = "${local.name}-mlflow-proxy"
  description = "The MLflow proxy"
  vpc_id      = var.vpc_id
  tags        = { Name = "${local.name}-mlflow-proxy" }
}

resource "aws_security_group" "mlflow" {
  name        = "${local.name}-mlflow"
  description = "MLflow, reached by the proxy only"
  vpc_id      = var.vpc_id
  tags        = { Name = "${local.name}-mlflow" }
}

resource "aws_security_group" "redis" {
  count = var.create_redis ? 1 : 0

  name        = "${local.name}-redis"
  description = "Redis of the MLflow proxy"
  vpc_id      = var.vpc_id
  tags        = { Name = "${local.name}-redis" }
}

# --- in ------------------------------------------------------------------------------------------

resource "aws_vpc_security_group_ingress_rule" "alb_https" {
  for_each = var.existing_alb == null ? toset(var.alb_ingress_cidrs) : []

  security_group_id = aws_security_group.alb[0].id
  description       = "Clients"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_ingress_rule" "alb_http" {
  for_each = var.existing_alb == null ? toset(var.alb_ingress_cidrs) : []

  security_group_id = aws_security_group.alb[0].id
  description       = "Clients, to be redirected to HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_vpc_security_group_ingress_rule" "proxy_from_alb" {
  security_group_id            = aws_security_group.proxy.id
  referenced_security_group_id = local.alb_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.proxy_port
  to_port                      = local.proxy_port
}

resource "aws_vpc_security_group_ingress_rule" "mlflow_from_proxy" {
  security_group_id            = aws_security_group.mlflow.id
  referenced_security_group_id = aws_security_group.proxy.id
  ip_protocol                  = "tcp"
  from_port                    = local.mlflow_port
  to_port                      = local.mlflow_port
}

resource "aws_vpc_security_group_ingress_rule" "redis_from_proxy" {
  count = var.create_redis ? 1 : 0

  security_group_id            = aws_security_group.redis[0].id
  referenced_security_group_id = aws_security_group.proxy.id
  ip_protocol                  = "tcp"
  from_port                    = local.redis_port
  to_port                      = local.redis_port
}

# --- out -----------------------------------------------------------------------------------------

resource "aws_vpc_security_group_egress_rule" "alb_to_proxy" {
  count = var.existing_alb == null ? 1 : 0

  security_group_id            = aws_security_group.alb[0].id
  referenced_security_group_id = aws_security_group.proxy.id
  ip_protocol                  = "tcp"
  from_port                    = local.proxy_port
  to_port                      = local.proxy_port
}

resource "aws_vpc_security_group_egress_rule" "proxy_to_mlflow" {
  security_group_id            = aws_security_group.proxy.id
  referenced_security_group_id = aws_security_group.mlflow.id
  ip_protocol                  = "tcp"
  from_port                    = local.mlflow_port
  to_port                      = local.mlflow_port
}

resource "aws_vpc_security_group_egress_rule" "proxy_to_redis" {
  count = var.create_redis ? 1 : 0

  security_group_id            = aws_security_group.proxy.id
  referenced_security_group_id = aws_security_group.redis[0].id
  ip_protocol                  = "tcp"
  from_port                    = local.redis_port
  to_port                      = local.redis_port
}

# Without create_redis: the Redis that redis_url_secret_arn names.
resource "aws_vpc_security_group_egress_rule" "proxy_to_own_redis" {
  count = !var.create_redis && var.redis_security_group_id != null ? 1 : 0

  security_group_id            = aws_security_group.proxy.id
  referenced_security_group_id = var.redis_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = local.redis_port
  to_port                      = local.redis_port
}

# Starting a task needs the image registry, Secrets Manager and the log service; all are HTTPS.
resource "aws_vpc_security_group_egress_rule" "proxy_https" {
  for_each = toset(var.https_egress_cidrs)

  security_group_id = aws_security_group.proxy.id
  description       = "AWS services, and the auth service if it is HTTPS"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "proxy_to_auth_service" {
  for_each = local.auth_service_port == 443 ? [] : toset(var.https_egress_cidrs)

  security_group_id = aws_security_group.proxy.id
  description       = "The auth service"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = local.auth_service_port
  to_port           = local.auth_service_port
}

resource "aws_vpc_security_group_egress_rule" "mlflow_https" {
  for_each = toset(var.https_egress_cidrs)

  security_group_id = aws_security_group.mlflow.id
  description       = "AWS services, S3 among them"
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "mlflow_to_database" {
  count = var.mlflow_database == null ? 0 : 1

  security_group_id            = aws_security_group.mlflow.id
  referenced_security_group_id = var.mlflow_database.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = var.mlflow_database.port
  to_port                      = var.mlflow_database.port
}
