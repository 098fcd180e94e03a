# MLflow: reached by its private name only, on a port that only the proxy may open.

locals {
  mlflow_artifacts = "s3://${var.mlflow_artifact_bucket}/${trim(var.mlflow_artifact_prefix, "/")}"
}

resource "aws_ecs_task_definition" "mlflow" {
  family                   = "${local.name}-mlflow"
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.mlflow_cpu
  memory                   = var.mlflow_memory
  execution_role_arn       = aws_iam_role.mlflow_execution.arn
  task_role_arn            = aws_iam_role.mlflow_task.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  volume {
    name = "tmp"
  }

  container_definitions = jsonencode([
    {
      name      = "mlflow"
      image     = var.mlflow_image
      essential = true

      command = [
        "mlflow", "server",
        "--host", "0.0.0.0",
        "--port", tostring(local.mlflow_port),
        "--workers", tostring(var.mlflow_workers),
        "--artifacts-destination", local.mlflow_artifacts,
        # MLflow answers 403 to any Host but these: the proxy's, and the health check's below.
        "--allowed-hosts", "${local.mlflow_host},127.0.0.1:${local.mlflow_port}",
        # uvicorn closes idle connections after 5 s otherwise, some of them under a request.
        "--uvicorn-opts", "--timeout-keep-alive ${local.timeouts.mlflow_keepalive}",
      ]

      readonlyRootFilesystem = true
      linuxParameters = {
        initProcessEnabled = true
        capabilities       = { drop = ["ALL"] }
      }
      mountPoints = [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }]

      portMappings = [{ containerPort = local.mlflow_port, protocol = "tcp" }]
      environment = [
        { name = "HOME", value = "/tmp" },
        { name = "MLFLOW_DISABLE_TELEMETRY", value = "true" },
        { name = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", value = "false" },
      ]
      secrets = [{ name = "MLFLOW_BACKEND_STORE_URI", valueFrom = var.mlflow_backend_store_secret_arn }]

      stopTimeout = local.timeouts.stop

      healthCheck = {
        command = [
          "CMD", "python", "-c",
          "import urllib.request as r; r.urlopen('http://127.0.0.1:${local.mlflow_port}${local.contract.mlflow.live_path}', timeout=4)",
        ]
        interval    = 15
        timeout     = 5
        retries     = 3
        startPeriod = 120 # the first start makes the tables
      }

      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.mlflow.name
          awslogs-region        = var.region
          awslogs-stream-prefix = "mlflow"
          mode                  = "non-blocking"
          max-buffer-size       = "25m"
        }
      }
    },
  ])

  lifecycle {
    precondition {
      condition     = contains(try(local.fargate_memory[tostring(var.mlflow_cpu)], []), var.mlflow_memory)
      error_message = "Fargate has no task with mlflow_cpu and mlflow_memory as given."
    }
  }
}

resource "aws_ecs_service" "mlflow" {
  name            = "mlflow"
  cluster         = aws_ecs_cluster.this.id
  task_definition = aws_ecs_task_definition.mlflow.arn
  desired_count   = var.mlflow_tasks
  launch_type     = "FARGATE"
  propagate_tags  = "SERVICE"

  enable_execute_command             = false
  availability_zone_rebalancing      = "ENABLED"
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.private_subnet_ids
    security_groups  = [aws_security_group.mlflow.id]
    assign_public_ip = false
  }

  service_registries {
    registry_arn = aws_service_discovery_service.mlflow.arn
  }

  depends_on = [aws_iam_role_policy.mlflow_execution]
}
