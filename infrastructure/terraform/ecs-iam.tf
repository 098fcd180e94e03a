# Rights. An execution role starts a task (image, log stream, secrets) and is not seen by what runs
# in it; a task role is what the program itself may do. The proxy calls nothing of AWS: no rights.

locals {
  assumed_by_tasks = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
    }]
  })

  # A secret may be named with a JSON key behind it (…:secret:name:key::); rights go to the secret.
  secret             = "^(?:[^:]*:){6}[^:]*"
  proxy_secret_arns  = distinct([for arn in values(local.proxy_secrets) : regex(local.secret, arn) if arn != null])
  mlflow_secret_arns = [regex(local.secret, var.mlflow_backend_store_secret_arn)]

  artifact_bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${var.mlflow_artifact_bucket}"
  artifact_folder     = trim(var.mlflow_artifact_prefix, "/")

  # What starting any task needs besides its log stream and its secrets.
  may_pull_images = length(var.ecr_repository_arns) == 0 ? [] : [
    {
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = var.ecr_repository_arns
    },
    {
      Effect   = "Allow"
      Action   = ["ecr:GetAuthorizationToken"]
      Resource = ["*"] # it knows no other
    },
  ]
  may_decrypt_secrets = length(var.secrets_kms_key_arns) == 0 ? [] : [
    {
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = var.secrets_kms_key_arns
    },
  ]
}

resource "aws_iam_role" "proxy_execution" {
  name               = "${local.name}-mlflow-proxy-execution"
  assume_role_policy = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "proxy_execution" {
  name = "start-the-task"
  role = aws_iam_role.proxy_execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["${aws_cloudwatch_log_group.proxy.arn}:*"]
        },
        {
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = local.proxy_secret_arns
        },
      ],
      local.may_pull_images,
      local.may_decrypt_secrets,
    )
  })
}

resource "aws_iam_role" "proxy_task" {
  name               = "${local.name}-mlflow-proxy-task"
  assume_role_policy = local.assumed_by_tasks
}

resource "aws_iam_role" "mlflow_execution" {
  name               = "${local.name}-mlflow-execution"
  assume_role_policy = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "mlflow_execution" {
  name = "start-the-task"
  role = aws_iam_role.mlflow_execution.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = ["${aws_cloudwatch_log_group.mlflow.arn}:*"]
        },
        {
          Effect   = "Allow"
          Action   = ["secretsmanager:GetSecretValue"]
          Resource = local.mlflow_secret_arns
        },
      ],
      local.may_pull_images,
      local.may_decrypt_secrets,
    )
  })
}

resource "aws_iam_role" "mlflow_task" {
  name               = "${local.name}-mlflow-task"
  assume_role_policy = local.assumed_by_tasks
}

resource "aws_iam_role_policy" "mlflow_task" {
  name = "artifacts"
  role = aws_iam_role.mlflow_task.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["s3:ListBucket", "s3:GetBucketLocation"]
        Resource = [local.artifact_bucket_arn]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
        Resource = [join("/", compact([local.artifact_bucket_arn, local.artifact_folder, "*"]))]
      },
    ]
  })
}
