//! `millm templates`: stores, shows, removes, exports and imports the settings of extractions.

use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use millm_api::{
    cli::Removed,
    inspection::{
        settings::ExtractionSettings,
        template::{ImportedTemplates, Template},
    },
};
use millm_proto::catalog::v1::{
    self as catalog, CreateTemplateRequest, DeleteTemplateRequest, ExportTemplatesRequest,
    GetTemplateRequest, ImportTemplatesRequest, ListTemplatesRequest, UpdateTemplateRequest,
};
use prost_types::FieldMask;

use crate::{
    client::Server,
    confirm,
    inspection_args::{
        AddTemplate, ExportTemplates, FavoriteTemplate, ImportTemplates, RmTemplates, TemplatesCommand,
    },
    output::{self, Misuse},
};

pub async fn run(server: &Server, command: TemplatesCommand, json: bool) -> Result<()> {
    match command {
        TemplatesCommand::List => list(server, json).await,
        TemplatesCommand::Show(args) => show(&find(server, &args.template).await?, json),
        TemplatesCommand::Add(args) => add(server, args, json).await,
        TemplatesCommand::Rm(args) => remove(server, args, json).await,
        TemplatesCommand::Favorite(args) => favorite(server, args, json).await,
        TemplatesCommand::Export(args) => export(server, args).await,
        TemplatesCommand::Import(args) => import(server, args, json).await,
    }
}

/// Returns a template by its name or id.
pub async fn find(server: &Server, name: &str) -> Result<catalog::Template> {
    let request = GetTemplateRequest { name: name.to_owned() };
    Ok(server.templates().get_template(request).await.map_err(|s| server.explain(&s))?.into_inner())
}

/// Stores a template and returns it.
pub async fn create(server: &Server, template: catalog::Template) -> Result<catalog::Template> {
    let request = CreateTemplateRequest { template: Some(template) };
    Ok(server.templates().create_template(request).await.map_err(|s| server.explain(&s))?.into_inner())
}

async fn list(server: &Server, json: bool) -> Result<()> {
    let mut templates = Vec::new();
    let mut request = ListTemplatesRequest { page_size: 1000, ..ListTemplatesRequest::default() };
    loop {
        let page =
            server.templates().list_templates(request.clone()).await.map_err(|s| server.explain(&s))?;
        let page = page.into_inner();
        templates.extend(page.templates.iter().map(Template::from));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if json {
        return output::json(&templates);
    }
    if templates.is_empty() {
        eprintln!("no templates yet: 'millm templates add --hooks residual' stores one");
        return Ok(());
    }
    let row = |template: &Template| {
        let settings = &template.settings;
        vec![
            template.id.to_string(),
            template.name.clone(),
            if template.favorite { "yes" } else { "" }.to_owned(),
            settings.points.join(","),
            settings.layers.clone(),
            settings.max_samples.map_or_else(|| "all".to_owned(), |samples| samples.to_string()),
            template.description.clone(),
        ]
    };
    let rows: Vec<_> = templates.iter().map(row).collect();
    output::table(&["ID", "NAME", "FAVORITE", "HOOKS", "LAYERS", "SAMPLES", "DESCRIPTION"], &[0, 5], &rows)
}

fn show(template: &catalog::Template, json: bool) -> Result<()> {
    let template = Template::from(template);
    if json {
        return output::json(&template);
    }
    let favorite = if template.favorite { "yes" } else { "no" };
    for (label, value) in
        [("name", template.name), ("id", template.id.to_string()), ("favorite", favorite.to_owned())]
    {
        output::line(&format!("{label:16} {value}"))?;
    }
    if !template.description.is_empty() {
        output::line(&format!("{:16} {}", "description", template.description))?;
    }
    settings(&template.settings)
}

/// Prints the settings of a template or an extraction.
pub fn settings(settings: &ExtractionSettings) -> Result<()> {
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let or = |number: Option<u64>, otherwise: &str| {
        number.map_or_else(|| otherwise.to_owned(), |number| number.to_string())
    };
    for (label, value) in [
        ("hooks", settings.points.join(", ")),
        ("layers", settings.layers.clone()),
        ("max samples", or(settings.max_samples, "all")),
        ("sequence length", or(settings.sequence_length.map(u64::from), "the model's context")),
        ("batch size", or(settings.batch_size.map(u64::from), "auto")),
        ("dtype", settings.dtype.as_str().to_owned()),
        ("positions", settings.positions.clone()),
        ("rows", if settings.pack { "packed" } else { "padded" }.to_owned()),
        ("long texts", if settings.split { "split" } else { "cut" }.to_owned()),
        ("chat template", yes(settings.chat_template)),
        ("special tokens", yes(!settings.no_special_tokens)),
        ("format", settings.format.as_str().to_owned()),
    ] {
        output::line(&format!("{label:16} {value}"))?;
    }
    Ok(())
}

async fn add(server: &Server, args: AddTemplate, json: bool) -> Result<()> {
    if args.settings.hooks.is_empty() {
        return Err(Misuse("a template needs --hooks".to_owned()).into());
    }
    let template = catalog::Template {
        handle: args.name,
        description: args.description,
        favorite: args.favorite,
        settings: Some(args.settings.choice().over(catalog::ExtractionSettings::default())),
        ..catalog::Template::default()
    };
    let created = create(server, template).await?;
    if json {
        return output::json(&Template::from(&created));
    }
    output::line(&created.handle)
}

async fn remove(server: &Server, args: RmTemplates, json: bool) -> Result<()> {
    for name in &args.templates {
        let template = find(server, name).await?;
        let what = format!("template '{}'", template.handle);
        if !args.yes && !confirm::removal(&template.handle, &what, json)? {
            continue;
        }
        let request = DeleteTemplateRequest { name: template.name, etag: String::new() };
        server.templates().delete_template(request).await.map_err(|s| server.explain(&s))?;
        if json {
            output::json(&Removed { removed: template.handle, id: template.id })?;
        } else {
            eprintln!("removed {}", template.handle);
        }
    }
    Ok(())
}

async fn favorite(server: &Server, args: FavoriteTemplate, json: bool) -> Result<()> {
    let template =
        catalog::Template { name: args.template, favorite: !args.off, ..catalog::Template::default() };
    let request = UpdateTemplateRequest {
        template: Some(template),
        update_mask: Some(FieldMask { paths: vec!["favorite".to_owned()] }),
    };
    let changed = server.templates().update_template(request).await.map_err(|s| server.explain(&s))?;
    let changed = Template::from(changed.get_ref());
    if json {
        return output::json(&changed);
    }
    eprintln!("{} is {} favorite now", changed.name, if changed.favorite { "a" } else { "no" });
    Ok(())
}

async fn export(server: &Server, args: ExportTemplates) -> Result<()> {
    let request = ExportTemplatesRequest { names: args.templates };
    let exported = server.templates().export_templates(request).await.map_err(|s| server.explain(&s))?;
    let document = exported.into_inner().json;
    let Some(path) = args.output else { return output::line(document.trim_end()) };
    fs::write(&path, document).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote {}", path.display());
    Ok(())
}

async fn import(server: &Server, args: ImportTemplates, json: bool) -> Result<()> {
    let request = ImportTemplatesRequest { json: document(&args.file)? };
    let imported = server.templates().import_templates(request).await.map_err(|s| server.explain(&s))?;
    let imported = ImportedTemplates::from(imported.get_ref());
    if json {
        return output::json(&imported);
    }
    for template in &imported.created {
        output::line(&template.name)?;
    }
    for skipped in &imported.skipped {
        eprintln!("skipped '{}': {}", skipped.name, skipped.reason);
    }
    eprintln!("{} created, {} skipped", imported.created.len(), imported.skipped.len());
    Ok(())
}

fn document(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut document = String::new();
        std::io::stdin().read_to_string(&mut document).context("cannot read stdin")?;
        return Ok(document);
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
