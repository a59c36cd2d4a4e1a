//! Creating, reading, listing, updating, deleting, importing and exporting templates.

use millm_kit::{Reason, ServiceError};
use millm_proto::catalog::v1::{
    ActivationType, CreateTemplateRequest, DeleteTemplateRequest, ExportTemplatesRequest, ExtractionSettings,
    GetTemplateRequest, ImportTemplatesRequest, ImportTemplatesResponse, ListTemplatesRequest, Template,
    UpdateTemplateRequest,
};
use prost_types::FieldMask;

use super::fixture::Fixture;

super::on_both_databases! {
    templates_without_a_name_get_one, all_fields_are_stored, invalid_templates_are_refused,
    favourites_come_first_then_the_newest, updating_and_deleting, templates_move_from_one_server_to_another,
    imports_say_what_was_skipped, exports_are_of_all_or_of_those_named,
}

async fn create(fixture: &Fixture, template: Template) -> Result<Template, ServiceError> {
    let request = CreateTemplateRequest { template: Some(template) };
    Ok(fixture.templates().create_template(request).await?.into_inner())
}

async fn get(fixture: &Fixture, name: &str) -> Result<Template, ServiceError> {
    Ok(fixture.templates().get_template(GetTemplateRequest { name: name.into() }).await?.into_inner())
}

async fn update(fixture: &Fixture, template: Template, paths: &[&str]) -> Result<Template, ServiceError> {
    let update_mask = Some(FieldMask { paths: paths.iter().map(|&p| p.to_owned()).collect() });
    let request = UpdateTemplateRequest { template: Some(template), update_mask };
    Ok(fixture.templates().update_template(request).await?.into_inner())
}

async fn delete(fixture: &Fixture, name: &str, etag: &str) -> Result<(), ServiceError> {
    let request = DeleteTemplateRequest { name: name.into(), etag: etag.into() };
    fixture.templates().delete_template(request).await?;
    Ok(())
}

async fn handles(fixture: &Fixture, page_size: i32) -> Vec<String> {
    let mut request = ListTemplatesRequest { page_size, ..ListTemplatesRequest::default() };
    let mut handles = Vec::new();
    loop {
        let page = fixture.templates().list_templates(request.clone()).await.unwrap().into_inner();
        handles.extend(page.templates.into_iter().map(|template| template.handle));
        if page.next_page_token.is_empty() {
            return handles;
        }
        request.page_token = page.next_page_token;
    }
}

async fn import(fixture: &Fixture, json: &str) -> Result<ImportTemplatesResponse, ServiceError> {
    let request = ImportTemplatesRequest { json: json.into() };
    Ok(fixture.templates().import_templates(request).await?.into_inner())
}

async fn export(fixture: &Fixture, names: &[&str]) -> Result<String, ServiceError> {
    let request = ExportTemplatesRequest { names: names.iter().map(|&name| name.to_owned()).collect() };
    Ok(fixture.templates().export_templates(request).await?.into_inner().json)
}

fn named(handle: &str) -> Template {
    let settings = ExtractionSettings { points: vec!["residual".into()], ..ExtractionSettings::default() };
    Template { handle: handle.into(), settings: Some(settings), ..Template::default() }
}

fn favorite(handle: &str) -> Template {
    Template { favorite: true, ..named(handle) }
}

async fn templates_without_a_name_get_one(fixture: Fixture) {
    let settings = ExtractionSettings {
        points: vec!["residual".into(), "mlp".into()],
        layers: "0-11".into(),
        max_samples: 1000,
        ..ExtractionSettings::default()
    };
    let template = Template { id: 9, settings: Some(settings), ..Template::default() };
    let first = create(&fixture, template.clone()).await.unwrap();
    assert_eq!((first.id, first.name.as_str()), (1, "templates/1"));
    let time = first.handle.strip_prefix("residual-mlp_layers0-11_1000samples_").unwrap();
    assert!(time.len() == 4 && time.bytes().all(|b| b.is_ascii_digit()), "{time}");
    // The same settings in the same minute, or in the next.
    let second = create(&fixture, template).await.unwrap();
    assert_ne!(second.handle, first.handle);
}

async fn all_fields_are_stored(fixture: Fixture) {
    let settings = ExtractionSettings {
        points: vec!["blocks.3.hook_resid_post".into()],
        layers: "all".into(),
        max_samples: u64::from(u32::MAX) + 1,
        sequence_length: 512,
        batch_size: 8,
        dtype: ActivationType::F16.into(),
        positions: "0,-1".into(),
        pack: true,
        chat_template: true,
        ..ExtractionSettings::default()
    };
    let asked = Template {
        handle: "Mein Entwurf: ü".into(),
        description: "line\nline".into(),
        settings: Some(settings),
        favorite: true,
        ..Template::default()
    };
    let created = create(&fixture, asked.clone()).await.unwrap();
    let expected = Template {
        name: "templates/1".into(),
        id: 1,
        create_time: created.create_time,
        update_time: created.create_time,
        etag: created.etag.clone(),
        ..asked
    };
    assert_eq!(created, expected);
    for name in ["Mein Entwurf: ü", "1", "templates/1"] {
        assert_eq!(get(&fixture, name).await.unwrap(), expected);
    }
    for name in ["", "mein entwurf: ü", "templates/2", "%", "a\0"] {
        assert_eq!(get(&fixture, name).await.unwrap_err().reason, Reason::TemplateNotFound, "{name:?}");
    }
}

async fn invalid_templates_are_refused(fixture: Fixture) {
    let check = async |template: Template, field: &str| {
        let error = create(&fixture, template).await.unwrap_err();
        assert_eq!((error.reason, error.details["field"].as_str()), (Reason::InvalidArgument, field));
    };
    check(Template::default(), "settings").await;
    check(Template { settings: Some(ExtractionSettings::default()), ..named("a") }, "settings.points").await;
    check(named("a\nb"), "handle").await;
    check(named(&"x".repeat(256)), "handle").await;
    check(Template { description: "\u{7}".into(), ..named("a") }, "description").await;
    create(&fixture, named("a")).await.unwrap();
    let error = create(&fixture, named("a")).await.unwrap_err();
    assert_eq!((error.reason, error.details["template_id"].as_str()), (Reason::TemplateAlreadyExists, "1"));
}

async fn favourites_come_first_then_the_newest(fixture: Fixture) {
    for template in [named("a"), favorite("b"), named("c"), favorite("d"), named("e")] {
        create(&fixture, template).await.unwrap();
    }
    for page_size in [0, 1, 2, 5] {
        assert_eq!(handles(&fixture, page_size).await, ["d", "b", "e", "c", "a"]);
    }
    update(&fixture, Template { name: "a".into(), favorite: true, ..Template::default() }, &["favorite"])
        .await
        .unwrap();
    update(&fixture, Template { name: "d".into(), ..Template::default() }, &["favorite"]).await.unwrap();
    assert_eq!(handles(&fixture, 2).await, ["b", "a", "e", "d", "c"]);
    for page_token in ["x", "p1", "f-1", "f"] {
        let request = ListTemplatesRequest { page_token: page_token.into(), ..Default::default() };
        let status = fixture.templates().list_templates(request).await.unwrap_err();
        assert_eq!(ServiceError::from(status).details["field"], "page_token");
    }
}

async fn updating_and_deleting(fixture: Fixture) {
    let first = create(&fixture, named("a")).await.unwrap();
    create(&fixture, named("b")).await.unwrap();
    let change = Template { name: "a".into(), etag: first.etag.clone(), ..named("c") };
    let second = update(&fixture, change.clone(), &["handle"]).await.unwrap();
    assert_eq!((second.id, second.handle.as_str()), (1, "c"));
    let stale = Template { name: "c".into(), ..change };
    assert_eq!(update(&fixture, stale, &["handle"]).await.unwrap_err().reason, Reason::Conflict);
    let taken = Template { name: "c".into(), ..named("b") };
    assert_eq!(update(&fixture, taken, &["handle"]).await.unwrap_err().reason, Reason::TemplateAlreadyExists);
    let emptied = Template { name: "c".into(), ..Template::default() };
    assert_eq!(update(&fixture, emptied, &["settings"]).await.unwrap_err().details["field"], "settings");
    let odd = Template { name: "c".into(), ..named("c") };
    assert_eq!(
        update(&fixture, odd, &["settings.points"]).await.unwrap_err().details["field"],
        "update_mask"
    );
    assert_eq!(delete(&fixture, "c", &first.etag).await.unwrap_err().reason, Reason::Conflict);
    delete(&fixture, "c", &second.etag).await.unwrap();
    assert_eq!(delete(&fixture, "c", "").await.unwrap_err().reason, Reason::TemplateNotFound);
    assert_eq!(handles(&fixture, 0).await, ["b"]);
}

async fn templates_move_from_one_server_to_another(fixture: Fixture) {
    for template in [named("a"), favorite("b")] {
        create(&fixture, template).await.unwrap();
    }
    let json = export(&fixture, &[]).await.unwrap();
    let other = Fixture::open("sqlite::memory:").await;
    let answer = import(&other, &json).await.unwrap();
    assert_eq!((answer.created.len(), answer.skipped.len()), (2, 0));
    assert_eq!(export(&other, &["b", "a"]).await.unwrap(), json);
}

async fn imports_say_what_was_skipped(fixture: Fixture) {
    create(&fixture, named("taken")).await.unwrap();
    let json = r#"{"version": 1, "templates": [
        {"name": "taken", "settings": {"points": ["mlp"]}},
        {"name": "bad layers", "settings": {"points": ["mlp"], "layers": "5-3"}},
        {"name": "twice", "settings": {"points": ["mlp"]}},
        {"name": "twice", "settings": {"points": ["mlp"]}},
        {"name": "odd", "settings": {"points": "mlp"}}]}"#;
    let answer = import(&fixture, json).await.unwrap();
    let created: Vec<_> = answer.created.iter().map(|template| template.handle.as_str()).collect();
    assert_eq!(created, ["twice"]);
    let skipped: Vec<_> =
        answer.skipped.iter().map(|skipped| (skipped.handle.as_str(), skipped.reason.as_str())).collect();
    assert_eq!(skipped[0], ("taken", "Template already exists: 'taken'."));
    assert_eq!(skipped[2], ("twice", "Template already exists: 'twice'."));
    assert!(
        skipped[1].0 == "bad layers" && skipped[1].1.contains("'settings.layers' is '5-3'"),
        "{skipped:?}"
    );
    assert!(skipped[3].0 == "odd" && skipped[3].1.contains("expected a sequence"), "{skipped:?}");
    let error = import(&fixture, r#"{"version": 7, "templates": []}"#).await.unwrap_err();
    assert!(error.message.contains("version 7"), "{}", error.message);
}

async fn exports_are_of_all_or_of_those_named(fixture: Fixture) {
    assert!(export(&fixture, &[]).await.unwrap().contains("\"templates\": []"));
    for handle in ["a", "b"] {
        create(&fixture, named(handle)).await.unwrap();
    }
    let json = export(&fixture, &["templates/1"]).await.unwrap();
    assert!(json.contains("\"a\"") && !json.contains("\"b\""), "{json}");
    assert_eq!(export(&fixture, &["c"]).await.unwrap_err().reason, Reason::TemplateNotFound);
    let many = vec!["a"; 1001];
    assert_eq!(export(&fixture, &many).await.unwrap_err().details["field"], "names");
}
