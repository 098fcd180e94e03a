# An invented account, for every test here.

region             = "eu-central-1"
availability_zones = ["eu-central-1a", "eu-central-1b"]
vpc_id             = "vpc-mock"
private_subnet_ids = ["subnet-mock-1", "subnet-mock-2"]
public_subnet_ids  = ["subnet-mock-3", "subnet-mock-4"]

certificate_arn = "arn:aws:acm:eu-central-1:000000000000:certificate/mock"

proxy_image         = "example.com/hokusai/mlflow-proxy:1.0.0"
mlflow_image        = "example.com/hokusai/mlflow:3.17.2"
ecr_repository_arns = ["arn:aws:ecr:eu-central-1:000000000000:repository/mock"]

auth_service_url  = "https://auth.example.com"
proxy_secret_arns = { AUTH_CACHE_SECRET = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:cache-mock" }

mlflow_backend_store_secret_arn = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:database-mock:uri::"
mlflow_database                 = { security_group_id = "sg-mock", port = 5432 }
mlflow_artifact_bucket          = "mock-artifacts"

redis_auth_token = "0123456789abcdef0123456789abcdef"
