//! `millm config`: the settings and the source of each value.

use std::collections::BTreeMap;

use anyhow::Result;
use millm_api::cli::Setting;
use millm_kit::Settings;

use crate::output;

/// Prints the settings as text, as JSON or as the table of the README.
pub fn run(settings: &Settings, markdown: bool, as_json: bool) -> Result<()> {
    if markdown {
        return output::line(Settings::markdown().trim_end());
    }
    let rows = settings.rows();
    if as_json {
        let map: BTreeMap<_, _> = rows
            .into_iter()
            .map(|row| {
                let setting = Setting { value: row.value, from: row.layer.name(), env: Some(row.env) };
                (row.key, setting)
            })
            .collect();
        return output::json(&map);
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| vec![row.key.to_owned(), row.value.clone(), row.layer.name().to_owned()])
        .collect();
    output::table(&["SETTING", "VALUE", "FROM"], &[], &rows)
}
