# development: sizes and thresholds. Everything else is the module's (../..).

terraform {
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # bucket, key and region: terraform init -backend-config=<file>. Encrypted, for it holds a secret.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = {
      Application = "hokusai-mlflow-proxy"
      Environment = "development"
    }
  }
}

module "mlflow" {
  source = "../.."

  environment = "development"

  proxy_cpu               = 512
  proxy_memory            = 1024
  proxy_min_tasks         = 2
  proxy_max_tasks         = 3
  mlflow_cpu              = 1024
  mlflow_memory           = 4096
  mlflow_workers          = 2
  redis_nodes             = 1
  redis_node_type         = "cache.t4g.micro"
  alb_deletion_protection = false
  log_retention_days      = 14

  region                          = var.region
  availability_zones              = var.availability_zones
  vpc_id                          = var.vpc_id
  private_subnet_ids              = var.private_subnet_ids
  public_subnet_ids               = var.public_subnet_ids
  existing_alb                    = var.existing_alb
  listener_rule_priority_offset   = var.listener_rule_priority_offset
  certificate_arn                 = var.certificate_arn
  public_host                     = var.public_host
  proxy_image                     = var.proxy_image
  mlflow_image                    = var.mlflow_image
  ecr_repository_arns             = var.ecr_repository_arns
  auth_service_url                = var.auth_service_url
  proxy_secret_arns               = var.proxy_secret_arns
  mlflow_backend_store_secret_arn = var.mlflow_backend_store_secret_arn
  mlflow_database                 = var.mlflow_database
  mlflow_artifact_bucket          = var.mlflow_artifact_bucket
  create_redis                    = var.create_redis
  redis_auth_token                = var.redis_auth_token
  redis_url_secret_arn            = var.redis_url_secret_arn
  redis_security_group_id         = var.redis_security_group_id
  alarm_emails                    = var.alarm_emails
}
