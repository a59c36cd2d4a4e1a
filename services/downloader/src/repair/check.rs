//! One check: the models folder is scanned, the Catalog is listed, and both are compared. It changes nothing.

use std::time::SystemTime;

use millm_kit::ServiceError;
use millm_proto::catalog::v1::Model;

use super::{
    compare::{Finding, compare},
    scan::Scan,
};
use crate::{context::Context, error::from_disk};

/// The findings of a check, and what they were made from.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) findings: Vec<Finding>,
    pub(crate) scan: Scan,
    pub(crate) rows: Vec<Model>,
}

/// Compares Catalog and models folder.
///
/// # Errors
///
/// SERVICE_UNAVAILABLE when the Catalog does not answer, INTERNAL when the folder cannot be read.
pub(crate) async fn check(context: &Context) -> Result<Check, ServiceError> {
    let models_dir = context.models_dir.clone();
    let scan = tokio::task::spawn_blocking(move || Scan::read(&models_dir)).await;
    let scan = scan
        .map_err(ServiceError::internal)?
        .map_err(|error| from_disk("models folder", "reading it", &error))?;
    // The rows are listed after the scan: a folder without a row then has lost its row.
    let rows = context.catalog.list("").await?;
    let findings = compare(&scan, &rows, context.models_dir.catalog_id(), SystemTime::now());
    Ok(Check { findings, scan, rows })
}
