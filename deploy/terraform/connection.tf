# The connection `lucidworks_default` in an Airflow that Terraform reaches by its API.

terraform {
  required_providers {
    airflow = {
      source = "DrFaust92/airflow"
    }
  }
}

variable "application_id" {
  description = "First label of APPLICATION_ID.applications.lucidworks.com"
  type        = string
}

variable "client_id" {
  description = "Client ID of the integration"
  type        = string
}

variable "client_secret" {
  description = "Client Secret of the integration; it is in Terraform's state"
  type        = string
  sensitive   = true
}

variable "customer_id" {
  description = "For the Models API only"
  type        = string
  default     = null
}

resource "airflow_connection" "lucidworks" {
  connection_id = "lucidworks_default"
  conn_type     = "lucidworks"
  description   = "Lucidworks AI"
  host          = var.application_id
  login         = var.client_id
  password      = var.client_secret
  extra = jsonencode({
    customer_id = var.customer_id
    share_via   = "airflow"
    timeout     = 120
  })
}
