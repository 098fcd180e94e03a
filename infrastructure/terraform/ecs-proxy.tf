# The proxy: what a task is, and how many run.

locals {
  proxy_redis_url_secret = var.create_redis ? one(aws_secretsmanager_secret.redis_url[*].arn) : var.redis_url_secret_arn

  proxy_environment = merge(
    {
      WEB_CONCURRENCY = tostring(max(2, floor(var.proxy_cpu / 1024)))
      # While Redis is away each task grants its share of a limit: never more than the limit in all.
      INSTANCES = tostring(var.proxy_max_tasks)
      # Metrics by endpoint type, in the namespace Hokusai/MLflowProxy: docs/observability.md.
      METRICS_EMF         = "true"
      METRICS_EMF_SERVICE = "${local.name}-mlflow-proxy"
    },
    local.contract.proxy.environment,
    var.proxy_environment,
    {
      MLFLOW_SERVER_URL        = local.mlflow_url
      HOKUSAI_AUTH_SERVICE_URL = var.auth_service_url
      HOKUSAI_AUTH_SERVICE_ID  = var.auth_service_id
      BIND                     = "0.0.0.0:${local.proxy_port}"
    },
  )

  proxy_secrets = merge(var.proxy_secret_arns, { REDIS_URL = local.proxy_redis_url_secret })
}

resource "aws_ecs_task_definition" "proxy" {
  family                   = "${local.name}-mlflow-proxy"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.proxy_cpu
  memory                   = var.proxy_memory
  execution_role_arn       = aws_iam_role.proxy_execution.arn
  task_role_arn            = aws_iam_role.proxy_task.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  # Bodies that are put aside, and what the workers of a task share where there is no /dev/shm.
  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([
    {
      name      = "proxy"
      image     = var.proxy_image
      essential = true

      user                   = var.proxy_user
      readonlyRootFilesystem = true
      linuxParameters = {
        initProcessEnabled = true
        capabilities       = { drop = ["ALL"] }
      }
      mountPoints = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]

      portMappings = [{ containerPort = local.proxy_port, protocol = "tcp" }]
      environment  = [for name in sort(keys(local.proxy_environment)) : { name = name, value = local.proxy_environment[name] }]
      secrets      = [for name in sort(keys(local.proxy_secrets)) : { name = name, valueFrom = local.proxy_secrets[name] }]

      # SIGTERM, then the time that gunicorn gives to running transfers, then the end.
      stopTimeout = local.timeouts.stop

      # Liveness only: the load balancer asks for readiness.
      healthCheck = {
        command = [
          "CMD", "python", "-c",
          "import urllib.request as r; r.urlopen('http://127.0.0.1:${local.proxy_port}${local.contract.proxy.live_path}', timeout=4)",
        ]
        interval    = 15
        timeout     = 5
        retries     = 3
        startPeriod = 30
      }

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.proxy.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "proxy"
          mode                  = "non-blocking" # an outage of the log service must not stop requests
          max-buffer-size       = "25m"
        }
      }
    },
  ])

  lifecycle {
    precondition {
      condition     = contains(try(local.fargate_memory[tostring(var.proxy_cpu)], []), var.proxy_memory)
      error_message = "Fargate has no task with proxy_cpu and proxy_memory as given."
    }
    precondition {
      condition     = local.timeouts.stop >= 2 && local.timeouts.stop <= 120
      error_message = "timeouts.stop must be 2 to 120 seconds on Fargate."
    }
    precondition {
      condition     = local.proxy_redis_url_secret != null
      error_message = "The proxy needs Redis: set create_redis, or redis_url_secret_arn."
    }
  }
}

resource "aws_ecs_service" "proxy" {
  name            = "mlflow-proxy"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.proxy.arn
  desired_count   = var.proxy_min_tasks
  launch_type     = "FARGATE"
  propagate_tags  = "SERVICE"

  enable_execute_command            = false
  availability_zone_rebalancing     = "ENABLED"
  health_check_grace_period_seconds = 60

  # New tasks are healthy before old ones go.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.private_subnet_ids
    security_groups  = [aws_security_group.proxy.id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = aws_lb_target_group.proxy.arn
    container_name   = "proxy"
    container_port   = local.proxy_port
  }

  service_registries {
    registry_arn = aws_service_discovery_service.proxy.arn
  }

  # A target group must hang on a listener before a service may use it.
  depends_on = [aws_lb_listener_rule.proxy, aws_iam_role_policy.proxy_execution]

  lifecycle {
    ignore_changes = [desired_count] # ecs-autoscaling.tf moves it
  }
}
