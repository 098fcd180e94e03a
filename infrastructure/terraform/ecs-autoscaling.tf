# More proxy tasks when they are busy. Streams hold connections, not processor time, so both count.

resource "aws_appautoscaling_target" "proxy" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.proxy.name}"
  min_capacity       = var.proxy_min_tasks
  max_capacity       = var.proxy_max_tasks
}

resource "aws_appautoscaling_policy" "proxy_cpu" {
  name               = "${local.name}-proxy-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.proxy.service_namespace
  scalable_dimension = aws_appautoscaling_target.proxy.scalable_dimension
  resource_id        = aws_appautoscaling_target.proxy.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

resource "aws_appautoscaling_policy" "proxy_requests" {
  name               = "${local.name}-proxy-requests"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.proxy.service_namespace
  scalable_dimension = aws_appautoscaling_target.proxy.scalable_dimension
  resource_id        = aws_appautoscaling_target.proxy.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.proxy_requests_per_task
    scale_in_cooldown  = 300
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "ALBRequestCountPerTarget"
      resource_label         = "${local.alb_arn_suffix}/${aws_lb_target_group.proxy.arn_suffix}"
    }
  }
}
