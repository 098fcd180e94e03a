# What validate and plan would let pass, and AWS or the proxy would refuse: refused here, each by a
# sentence. Several at once, since every run costs a second or two; each must fail for itself.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  environment = "test"
}

run "variables_that_are_wrong_by_themselves" {
  command = plan

  variables {
    availability_zones     = ["eu-west-1a", "eu-west-1b"] # of another region
    private_subnet_ids     = ["subnet-mock-1"]
    tls_policy             = "ELBSecurityPolicy-2016-08"
    proxy_image            = "example.com/hokusai/mlflow-proxy:latest"
    mlflow_image           = "example.com/hokusai/mlflow"
    proxy_user             = "0:0"
    proxy_max_tasks        = 1
    proxy_environment      = { REDIS_URL = "redis://example.com" } # belongs into a secret
    proxy_secret_arns      = {}
    auth_service_url       = "https://user:password@auth.example.com"
    mlflow_artifact_bucket = "s3://mock-artifacts"
    mlflow_tasks           = 0
    cpu_architecture       = "arm"
    redis_auth_token       = "0123456789abcdef@example" # would break the URL it stands in
    redis_nodes            = 0
    log_retention_days     = 31
  }

  expect_failures = [
    var.availability_zones,
    var.private_subnet_ids,
    var.tls_policy,
    var.proxy_image,
    var.mlflow_image,
    var.proxy_user,
    var.proxy_min_tasks,
    var.proxy_environment,
    var.proxy_secret_arns,
    var.auth_service_url,
    var.mlflow_artifact_bucket,
    var.mlflow_tasks,
    var.cpu_architecture,
    var.redis_auth_token,
    var.redis_nodes,
    var.log_retention_days,
  ]
}

run "secrets_instead_of_their_arns" {
  command = plan

  variables {
    proxy_secret_arns               = { AUTH_CACHE_SECRET = "hunter2" }
    mlflow_backend_store_secret_arn = "postgresql://example.com/mlflow"
    listener_rule_priority_offset   = 0.5
  }

  expect_failures = [var.proxy_secret_arns, var.mlflow_backend_store_secret_arn, var.listener_rule_priority_offset]
}

run "an_existing_load_balancer_with_another_idle_time_out" {
  command = plan

  variables {
    existing_alb = {
      listener_arn      = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/theirs/0/0"
      arn_suffix        = "app/theirs/0"
      security_group_id = "sg-mock-theirs"
      idle_timeout      = 60
    }
  }

  expect_failures = [var.existing_alb]
}

run "https_without_a_certificate_and_other_things_that_do_not_go_together" {
  command = plan

  variables {
    certificate_arn  = null
    proxy_cpu        = 256
    proxy_memory     = 8192 # Fargate has no such task
    mlflow_cpu       = 1000
    redis_auth_token = null
  }

  expect_failures = [
    aws_lb_listener.https,
    aws_ecs_task_definition.proxy,
    aws_ecs_task_definition.mlflow,
    aws_elasticache_replication_group.redis,
  ]
}

run "no_redis_at_all_and_a_load_balancer_in_one_zone" {
  command = plan

  variables {
    create_redis      = false
    public_subnet_ids = ["subnet-mock-3"]
  }

  expect_failures = [aws_ecs_task_definition.proxy, aws_lb.this]
}
