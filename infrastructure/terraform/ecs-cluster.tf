resource "aws_ecs_cluster" "this" {
  name = "${local.name}-mlflow"

  setting {
    name  = "containerInsights" # counts of running tasks, for an alarm
    value = "enabled"
  }

  # The state keeps the name of its environment, so a plan with the variables of another one fails
  # here. Without this it would replace everything.
  lifecycle {
    ignore_changes = [name]

    postcondition {
      condition     = self.name == "${local.name}-mlflow"
      error_message = "This state is that of ${self.name}, and the variables are those of ${local.name}."
    }
  }
}
