# One environment is made, of nothing but mocks: terraform test -var-file=development.tfvars. What its
# state says is judged in tests/infrastructure/ at the top of the repository.

mock_provider "aws" {
  source = "./tests/mocks"
}

override_resource {
  target = aws_lb_target_group.proxy
  values = {
    arn        = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:targetgroup/proxy/0"
    arn_suffix = "targetgroup/proxy/0"
  }
}

run "environment" {
  assert {
    condition     = output.mlflow_server_url == "http://mlflow.hokusai-${var.environment}.local:5000"
    error_message = "MLflow's private name is part of the contract."
  }
  assert {
    condition     = output.tracking_uri == "https://registry.hokus.ai/api/mlflow"
    error_message = "The tracking URI is what the documentation gives."
  }
}

# The variables of another environment in the state of this one.
run "mixed_up_environments" {
  command = plan

  variables {
    environment = "other"
  }

  expect_failures = [aws_ecs_cluster.this]
}

# Behind a load balancer and a Redis that are there already.
run "guest" {
  state_key = "guest"

  variables {
    existing_alb = {
      listener_arn      = "arn:aws:elasticloadbalancing:eu-central-1:000000000000:listener/app/theirs/0/0"
      arn_suffix        = "app/theirs/0"
      security_group_id = "sg-mock-theirs"
      idle_timeout      = 930
    }
    listener_rule_priority_offset = 1000
    certificate_arn               = null
    public_subnet_ids             = []
    create_redis                  = false
    redis_auth_token              = null
    redis_url_secret_arn          = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:redis-theirs"
    redis_security_group_id       = "sg-mock-redis"
    auth_service_url              = "http://auth.internal:8001"
  }

  assert {
    condition     = output.alb_dns_name == null
    error_message = "No second load balancer is made."
  }
}
