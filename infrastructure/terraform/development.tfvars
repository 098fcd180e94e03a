# What makes development different. What each variable means: variables.tf.

environment             = "development"
proxy_cpu               = 512
proxy_memory            = 1024
proxy_min_tasks         = 2
proxy_max_tasks         = 3
mlflow_cpu              = 1024
mlflow_memory           = 4096
mlflow_workers          = 2
mlflow_tasks            = 1
redis_nodes             = 1
redis_node_type         = "cache.t4g.micro"
alb_deletion_protection = false
log_retention_days      = 14
