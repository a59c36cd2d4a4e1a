//! Datasets and templates: what their services share. A row is the API's message, encoded; name, handle, times and etag
//! come from the row's columns.

use millm_kit::{ServiceError, format::excerpt};
use prost::Message;
use prost_types::Timestamp;

use crate::{
    context::Context,
    resource::{MAX_ATTEMPTS, MAX_PAGE_BYTES, now},
    store::{After, EntityRow, StoreError, Table, etag, micros, timestamp},
};

/// What a message takes from its row.
#[derive(Debug, Clone)]
pub(crate) struct RowFacts {
    pub name: String,
    pub id: i64,
    pub handle: String,
    pub etag: String,
    pub create_time: Option<Timestamp>,
    pub update_time: Option<Timestamp>,
}

/// A message that is stored as an entity.
pub(crate) trait Entity: Message + Default + Clone + 'static {
    /// The collection in resource names: "datasets".
    const COLLECTION: &'static str;

    /// Returns the table of the rows.
    fn table() -> &'static Table;
    /// Returns the handle.
    fn handle(&self) -> &str;
    /// Returns the value of the table's flag.
    fn flag(&self) -> bool;
    /// Sets what the row says.
    fn set_facts(&mut self, facts: RowFacts);
    /// Returns the error for a name that no entity has.
    fn not_found(name: &str) -> ServiceError;
    /// Returns the error for a handle that another entity has.
    fn already_exists(id: i64, handle: &str) -> ServiceError;
}

/// Sets the fields of a message that [`RowFacts`] has.
macro_rules! set_facts {
    ($entity:expr, $facts:expr) => {{
        let RowFacts { name, id, handle, etag, create_time, update_time } = $facts;
        ($entity.name, $entity.id, $entity.handle, $entity.etag) = (name, id, handle, etag);
        ($entity.create_time, $entity.update_time) = (create_time, update_time);
    }};
}
pub(crate) use set_facts;

/// Creates a row. An entity without a handle gets `derived`, or the first of `derived-2`, `derived-3`, … that is free.
///
/// # Errors
///
/// ALREADY_EXISTS of the entity's kind if its handle is taken; SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn create<E: Entity>(
    context: &Context,
    entity: &E,
    derived: String,
) -> Result<E, ServiceError> {
    let is_given = !entity.handle().is_empty();
    let base = if is_given { entity.handle().to_owned() } else { derived };
    let time = micros(&now());
    for _ in 0..MAX_ATTEMPTS {
        let taken = context.entities.handles(E::table(), base.clone()).await;
        let taken = taken.map_err(|e| context.store_error(e))?;
        if is_given && taken.contains(&base) {
            return Err(handle_taken::<E>(context, base).await);
        }
        let row = EntityRow {
            id: 0,
            handle: first_free(&base, &taken),
            flag: entity.flag(),
            body: entity.encode_to_vec(),
            version: 1,
            create_time: time,
            update_time: time,
        };
        match context.entities.insert(E::table(), row).await {
            Ok(row) => return decode(row),
            // Another call wrote first: read again.
            Err(StoreError::Duplicate) => {}
            Err(error) => return Err(context.store_error(error)),
        }
    }
    Err(ServiceError::conflict(base))
}

/// Returns the entity that a name means: `collection/7`, `7`, or a handle.
///
/// # Errors
///
/// NOT_FOUND of the entity's kind; SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn get<E: Entity>(context: &Context, name: &str) -> Result<E, ServiceError> {
    decode(read::<E>(context, name).await?)
}

/// Reads the row that a name means, lets `change` change the entity, and writes it.
///
/// # Errors
///
/// CONFLICT if `seen` is not empty and not the entity's etag; the error of `change`; ALREADY_EXISTS or NOT_FOUND of the
/// entity's kind; SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn update<E: Entity>(
    context: &Context,
    name: &str,
    seen: &str,
    change: impl Fn(&mut E) -> Result<(), ServiceError>,
) -> Result<E, ServiceError> {
    for _ in 0..MAX_ATTEMPTS {
        let row = read::<E>(context, name).await?;
        check_etag(&row, seen)?;
        let version = row.version;
        let mut entity: E = decode(row.clone())?;
        change(&mut entity)?;
        let row = EntityRow {
            handle: entity.handle().to_owned(),
            flag: entity.flag(),
            body: entity.encode_to_vec(),
            version: version + 1,
            update_time: micros(&now()),
            ..row
        };
        match context.entities.replace(E::table(), row.clone(), version).await {
            Ok(true) => return decode(row),
            // Another call wrote first: read again.
            Ok(false) => {}
            Err(StoreError::Duplicate) => return Err(handle_taken::<E>(context, row.handle).await),
            Err(error) => return Err(context.store_error(error)),
        }
    }
    Err(ServiceError::conflict(excerpt(name)))
}

/// Deletes the entity that a name means.
///
/// # Errors
///
/// CONFLICT if `seen` is not empty and not the entity's etag; NOT_FOUND of the entity's kind; SERVICE_UNAVAILABLE,
/// INTERNAL.
pub(crate) async fn delete<E: Entity>(context: &Context, name: &str, seen: &str) -> Result<(), ServiceError> {
    let row = read::<E>(context, name).await?;
    check_etag(&row, seen)?;
    let version = (!seen.is_empty()).then_some(row.version);
    let deleted = context.entities.delete(E::table(), row.id, version).await;
    if deleted.map_err(|e| context.store_error(e))? {
        return Ok(());
    }
    // Another call wrote first: the row is gone, or has another version than the caller saw.
    read::<E>(context, name).await?;
    Err(ServiceError::conflict(row.handle))
}

/// Returns a page of at most `size` entities after a place, and whether more follow.
///
/// # Errors
///
/// SERVICE_UNAVAILABLE, INTERNAL.
pub(crate) async fn list<E: Entity>(
    context: &Context,
    after: After,
    size: usize,
) -> Result<(Vec<E>, bool), ServiceError> {
    let rows = context.entities.list(E::table(), after, size as i64 + 1).await;
    let rows = rows.map_err(|e| context.store_error(e))?;
    let found = rows.len();
    let mut bytes = 0;
    let mut page = Vec::new();
    for row in rows.into_iter().take(size) {
        bytes += row.body.len();
        if bytes > MAX_PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push(decode(row)?);
    }
    let is_more = page.len() < found;
    Ok((page, is_more))
}

async fn read<E: Entity>(context: &Context, name: &str) -> Result<EntityRow, ServiceError> {
    let not_found = || E::not_found(&excerpt(name).to_string());
    let (by_id, by_handle) = match name.strip_prefix(E::COLLECTION).and_then(|rest| rest.strip_prefix('/')) {
        Some(id) => (id.parse::<i64>().ok(), None),
        None => (name.parse::<i64>().ok(), Some(name)),
    };
    if let Some(id) = by_id
        && let Some(row) = context.entities.get(E::table(), id).await.map_err(|e| context.store_error(e))?
    {
        return Ok(row);
    }
    // PostgreSQL takes no NUL in a text.
    let by_handle = by_handle.filter(|handle| !handle.is_empty() && !handle.contains('\0'));
    let Some(handle) = by_handle else { return Err(not_found()) };
    let found = context.entities.find(E::table(), handle.to_owned()).await;
    found.map_err(|e| context.store_error(e))?.ok_or_else(not_found)
}

fn decode<E: Entity>(row: EntityRow) -> Result<E, ServiceError> {
    let mut entity = E::decode(row.body.as_slice()).map_err(ServiceError::internal)?;
    entity.set_facts(RowFacts {
        name: format!("{}/{}", E::COLLECTION, row.id),
        id: row.id,
        handle: row.handle,
        etag: etag(row.version),
        create_time: Some(timestamp(row.create_time)),
        update_time: Some(timestamp(row.update_time)),
    });
    Ok(entity)
}

fn check_etag(row: &EntityRow, seen: &str) -> Result<(), ServiceError> {
    let is_seen = seen.is_empty() || seen == etag(row.version);
    if is_seen { Ok(()) } else { Err(ServiceError::conflict(&row.handle)) }
}

/// Returns the error for a handle that another entity has.
async fn handle_taken<E: Entity>(context: &Context, handle: String) -> ServiceError {
    match context.entities.find(E::table(), handle.clone()).await {
        Ok(Some(row)) => E::already_exists(row.id, &row.handle),
        Ok(None) => ServiceError::conflict(handle),
        Err(error) => context.store_error(error),
    }
}

fn first_free(base: &str, taken: &[String]) -> String {
    let numbered = (2_u64..).map(|n| format!("{base}-{n}"));
    std::iter::once(base.to_owned())
        .chain(numbered)
        .find(|handle| !taken.contains(handle))
        .expect("the numbers are endless")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_handle_gets_a_number() {
        let mut taken = Vec::new();
        for want in ["a", "a-2", "a-3"] {
            let handle = first_free("a", &taken);
            assert_eq!(handle, want);
            taken.push(handle);
        }
    }
}
