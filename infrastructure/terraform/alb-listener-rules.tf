# Which requests reach the proxy: the routes of routes.json, and no others. Nothing leads to MLflow.
# A pattern with /* does not match the path without it, so both stand there. Case matters in paths.

resource "aws_lb_listener_rule" "proxy" {
  for_each = local.routes

  listener_arn = local.listener_arn
  priority     = each.value.priority + var.listener_rule_priority_offset

  condition {
    host_header {
      values = [local.host]
    }
  }

  condition {
    path_pattern {
      values = each.value.paths
    }
  }

  action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.proxy.arn
  }

  tags = { Name = "${local.name}-${each.key}" }

  lifecycle {
    precondition {
      condition     = 1 + length(each.value.paths) <= 5
      error_message = "A rule takes five condition values, the host included; split route ${each.key}."
    }
    precondition {
      condition     = alltrue([for path in each.value.paths : length(path) <= 128 && startswith(path, "/")])
      error_message = "A path pattern begins with / and has at most 128 characters; see route ${each.key}."
    }
    precondition {
      condition     = each.value.priority + var.listener_rule_priority_offset <= 50000
      error_message = "A rule's priority is at most 50000; see route ${each.key}."
    }
  }
}
