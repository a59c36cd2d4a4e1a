//! Parts of a request as types. What cannot be read is a [`Failure`] that names the field.

use axum::extract::FromRequestParts;

use crate::error::Failure;

/// A parameter of the path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Failure))]
pub struct Path<T>(pub T);

/// The parameters after the question mark.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failure))]
pub struct Query<T>(pub T);
