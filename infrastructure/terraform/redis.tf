# ElastiCache for the proxy's cache and counts, with TLS and a password. Nothing in it must survive.

resource "aws_elasticache_subnet_group" "redis" {
  count = var.create_redis ? 1 : 0

  name       = "${local.name}-mlflow-proxy"
  subnet_ids = var.private_subnet_ids
}

resource "aws_elasticache_replication_group" "redis" {
  count = var.create_redis ? 1 : 0

  replication_group_id = "${local.name}-proxy"
  description          = "Cache and limits of the MLflow proxy, ${var.environment}"
  engine               = "redis"
  engine_version       = "7.1"
  node_type            = var.redis_node_type
  port                 = local.redis_port
  parameter_group_name = "default.redis7"

  num_cache_clusters          = var.redis_nodes
  automatic_failover_enabled  = var.redis_nodes > 1
  multi_az_enabled            = var.redis_nodes > 1
  preferred_cache_cluster_azs = [for i in range(var.redis_nodes) : var.availability_zones[i % length(var.availability_zones)]]

  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  auth_token                 = var.redis_auth_token

  subnet_group_name  = aws_elasticache_subnet_group.redis[0].name
  security_group_ids = [aws_security_group.redis[0].id]

  auto_minor_version_upgrade = true
  apply_immediately          = false
  snapshot_retention_limit   = 0

  lifecycle {
    precondition {
      condition     = var.redis_auth_token != null
      error_message = "create_redis needs redis_auth_token (16 to 128 letters and digits)."
    }
    precondition {
      condition     = length("${local.name}-proxy") <= 40
      error_message = "A replication group's id has at most 40 characters; choose a shorter environment."
    }
  }
}

# The address and the password together are one secret; the proxy gets it as REDIS_URL.
resource "aws_secretsmanager_secret" "redis_url" {
  count = var.create_redis ? 1 : 0

  name        = "${local.name}/mlflow-proxy/redis-url"
  description = "REDIS_URL of the MLflow proxy"

  # Nothing to recover: it is made anew with the group, and the name must be free for that.
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "redis_url" {
  count = var.create_redis ? 1 : 0

  secret_id     = aws_secretsmanager_secret.redis_url[0].id
  secret_string = "rediss://:${var.redis_auth_token}@${aws_elasticache_replication_group.redis[0].primary_endpoint_address}:${local.redis_port}/0"
}
