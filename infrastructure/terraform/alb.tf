# The load balancer, unless there is one already (existing_alb), and the proxy's target group.

resource "aws_lb" "this" {
  count = var.existing_alb == null ? 1 : 0

  name               = local.name
  load_balancer_type = "application"
  internal           = false
  subnets            = var.public_subnet_ids
  security_groups    = [aws_security_group.alb[0].id]

  # Longer than the proxy waits for MLflow, so that a time-out is answered by the proxy, in JSON;
  # shorter than the proxy keeps a connection, or requests meet one that is just closing (502).
  idle_timeout = local.timeouts.alb_idle

  desync_mitigation_mode     = "strictest"
  drop_invalid_header_fields = true
  xff_header_processing_mode = "append" # the proxy trusts the last entry
  preserve_host_header       = true
  enable_deletion_protection = var.alb_deletion_protection

  dynamic "access_logs" {
    for_each = var.alb_access_logs_bucket[*]
    content {
      bucket  = access_logs.value
      prefix  = local.name
      enabled = true
    }
  }

  lifecycle {
    precondition {
      condition     = local.timeouts.alb_idle >= 1 && local.timeouts.alb_idle <= 4000
      error_message = "timeouts.alb_idle must be 1 to 4000 seconds."
    }
    precondition {
      condition     = length(var.public_subnet_ids) >= 2
      error_message = "A load balancer needs public_subnet_ids in two availability zones, or name an existing_alb."
    }
  }
}

resource "aws_lb_listener" "https" {
  count = var.existing_alb == null ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  port              = 443
  protocol          = "HTTPS"
  ssl_policy        = var.tls_policy
  certificate_arn   = var.certificate_arn

  default_action {
    type = "fixed-response"
    fixed_response {
      status_code  = tostring(local.contract.otherwise.status)
      content_type = local.contract.otherwise.content_type
      message_body = local.contract.otherwise.body
    }
  }

  lifecycle {
    precondition {
      condition     = var.certificate_arn != null
      error_message = "HTTPS needs certificate_arn, unless an existing_alb is used."
    }
    precondition {
      condition     = length(local.contract.otherwise.body) <= 1024
      error_message = "A fixed response holds at most 1024 characters."
    }
  }
}

resource "aws_lb_listener" "http" {
  count = var.existing_alb == null ? 1 : 0

  load_balancer_arn = aws_lb.this[0].arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type = "redirect"
    redirect {
      protocol    = "HTTPS"
      port        = "443"
      status_code = "HTTP_301"
    }
  }
}

resource "aws_lb_target_group" "proxy" {
  name        = "${local.name}-proxy"
  vpc_id      = var.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = local.proxy_port

  # No slow start: AWS refuses it together with this algorithm.
  load_balancing_algorithm_type = "least_outstanding_requests"

  # Transfers that run when a task is replaced have this long to end.
  deregistration_delay = local.timeouts.deregistration_delay

  health_check {
    path                = local.contract.proxy.ready_path
    matcher             = "200"
    interval            = local.timeouts.health_interval
    timeout             = local.timeouts.health_timeout
    healthy_threshold   = local.timeouts.healthy_threshold
    unhealthy_threshold = local.timeouts.unhealthy_threshold
  }

  lifecycle {
    precondition {
      condition     = local.timeouts.health_timeout < local.timeouts.health_interval
      error_message = "timeouts.health_timeout must be below timeouts.health_interval."
    }
    precondition {
      condition     = local.timeouts.health_interval >= 5 && local.timeouts.health_interval <= 300
      error_message = "timeouts.health_interval must be 5 to 300 seconds."
    }
    precondition {
      condition     = local.timeouts.deregistration_delay >= local.timeouts.longest_transfer && local.timeouts.deregistration_delay <= 3600
      error_message = "timeouts.deregistration_delay must be at least timeouts.longest_transfer, and at most 3600 seconds."
    }
    precondition {
      condition     = length("${local.name}-proxy") <= 32
      error_message = "A target group's name has at most 32 characters; choose a shorter environment."
    }
  }
}

locals {
  listener_arn          = var.existing_alb == null ? one(aws_lb_listener.https[*].arn) : var.existing_alb.listener_arn
  alb_security_group_id = var.existing_alb == null ? one(aws_security_group.alb[*].id) : var.existing_alb.security_group_id
  alb_arn_suffix        = var.existing_alb == null ? one(aws_lb.this[*].arn_suffix) : var.existing_alb.arn_suffix
}
