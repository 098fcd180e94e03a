# For moto, in a scratch copy of the module only. What it has no answer for is left out, and what it
# forgets is not compared. All of it is listed in infrastructure/terraform/README.md.

terraform {
  backend "local" {}
}

# Application autoscaling: it cannot list tags, and apply fails.
resource "aws_appautoscaling_target" "proxy" {
  count       = 0
  resource_id = "service/none/none"
}

resource "aws_appautoscaling_policy" "proxy_cpu" {
  count              = 0
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/none/none"
}

resource "aws_appautoscaling_policy" "proxy_requests" {
  count              = 0
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/none/none"
}

# Composite alarms: not implemented, and apply fails.
resource "aws_cloudwatch_composite_alarm" "unavailable" {
  count = 0
}

# Services: two attributes come back as they were not given. (The circuit breaker is forgotten too,
# but silently.)
resource "aws_ecs_service" "proxy" {
  lifecycle {
    ignore_changes = [desired_count, availability_zone_rebalancing, health_check_grace_period_seconds]
  }
}

resource "aws_ecs_service" "mlflow" {
  lifecycle {
    ignore_changes = [availability_zone_rebalancing]
  }
}
