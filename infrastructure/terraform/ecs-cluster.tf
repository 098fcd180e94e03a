resource "aws_ecs_cluster" "this" {
  name = "${local.name}-mlflow"

  setting {
    name  = "containerInsights" # counts of running tasks, for an alarm
    value = "enabled"
  }
}
