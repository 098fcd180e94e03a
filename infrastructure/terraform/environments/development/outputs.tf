output "mlflow" {
  description = "Everything that the module says of itself; ../../outputs.tf explains it."
  value       = module.mlflow
}
