output "tracking_uri" {
  description = "What clients set as MLFLOW_TRACKING_URI."
  value       = "https://${local.host}/api/mlflow"
}

output "alb_dns_name" {
  description = "What the public host's DNS record points to; null with existing_alb."
  value       = one(aws_lb.this[*].dns_name)
}

output "mlflow_server_url" {
  description = "MLflow's private address, as the proxy uses it."
  value       = local.mlflow_url
}

output "target_group_arn" {
  description = "The proxy's target group."
  value       = aws_lb_target_group.proxy.arn
}

output "cluster_name" {
  description = "The ECS cluster of both services."
  value       = aws_ecs_cluster.this.name
}

output "service_names" {
  description = "The ECS services."
  value       = { proxy = aws_ecs_service.proxy.name, mlflow = aws_ecs_service.mlflow.name }
}

output "log_groups" {
  description = "Where the logs are."
  value       = { proxy = aws_cloudwatch_log_group.proxy.name, mlflow = aws_cloudwatch_log_group.mlflow.name }
}

output "security_group_ids" {
  description = "The groups of proxy and MLflow; a database must let MLflow's in."
  value       = { proxy = aws_security_group.proxy.id, mlflow = aws_security_group.mlflow.id }
}

output "alarm_topic_arn" {
  description = "The topic that alarms are sent to."
  value       = aws_sns_topic.alarms.arn
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}
