//! The description of the admin API in OpenAPI 3.1, made of the table of endpoints.

use super::{
    access::Access,
    endpoints::{Content, Endpoint, all, plain},
};
use crate::api::{AdminProblem, PATH_PREFIX};
use axum::{Json, http::Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// `GET /api/v1/openapi.json`
pub(super) async fn serve() -> Json<Value> {
    Json(document())
}

/// The schema of a type, and of all that it refers to.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of this type.
pub(super) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The fields of a query.
pub(super) type QueryOf = fn() -> Schema;

/// The fields of this query.
pub(super) fn query_of<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<T>()
}

/// The whole description.
#[must_use]
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let api = all().into_iter().map(|endpoint| (PATH_PREFIX, endpoint));
    let plain = plain().into_iter().map(|endpoint| ("", endpoint));
    for (prefix, endpoint) in api.chain(plain) {
        let path = format!("{prefix}{}", endpoint.path);
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            let method = endpoint.method.as_str().to_ascii_lowercase();
            methods.insert(method, operation(&endpoint, &mut generator));
        }
    }
    // Named here, so that it is among the schemas.
    generator.subschema_for::<AdminProblem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir coordinator",
            "summary": "The admin API of a Weir network",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(false),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A token (coordinator tokens create), or that of a log-in. \
                        Over the admin socket none is needed.",
                },
            },
            "responses": {
                "Problem": {
                    "description": "Why it was not done",
                    "content": {
                        "application/problem+json": {
                            "schema": { "$ref": "#/components/schemas/AdminProblem" },
                        },
                    },
                },
            },
        },
    })
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": name(endpoint),
        "summary": endpoint.summary,
        "responses": {
            "200": { "description": "Done" },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    });
    if let Some((kind, schema)) = content(&endpoint.gives, generator) {
        operation["responses"]["200"]["content"] = json!({ kind: { "schema": schema } });
    }
    if let Some((kind, schema)) = content(&endpoint.takes, generator) {
        operation["requestBody"] =
            json!({ "required": true, "content": { kind: { "schema": schema } } });
    }
    if let Access::Needs(scope) = endpoint.access {
        operation["security"] = json!([{ "token": [scope.as_str()] }]);
    }
    let parameters = parameters(endpoint);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    operation
}

/// `GET /nodes/{node}` is `getNodesNode`.
fn name(endpoint: &Endpoint) -> String {
    let words = endpoint.path.split(|c: char| !c.is_ascii_alphanumeric());
    let method = endpoint.method.as_str().to_ascii_lowercase();
    words
        .filter(|word| !word.is_empty())
        .fold(method, |name, word| {
            let (first, rest) = word.split_at(1);
            format!("{name}{}{rest}", first.to_ascii_uppercase())
        })
}

fn content(content: &Content, generator: &mut SchemaGenerator) -> Option<(&'static str, Schema)> {
    match content {
        Content::None => None,
        Content::Json(schema) => Some(("application/json", schema(generator))),
        Content::Raw(kind) => Some((kind, Schema::default())),
    }
}

fn parameters(endpoint: &Endpoint) -> Vec<Value> {
    let string = json!({ "type": "string" });
    let mut parameters: Vec<_> = endpoint
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": string }))
        .collect();
    if let Some(query) = endpoint.query {
        // Its fields, and not a reference to all of it.
        let schema = query();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, property) in properties.into_iter().flatten() {
            let mut property = property.clone();
            let about = property
                .as_object_mut()
                .and_then(|property| property.remove("description"));
            parameters.push(json!({
                "name": name, "in": "query", "description": about, "schema": property,
            }));
        }
    }
    let mut header = |name: &str, about: &str| {
        parameters.push(json!({
            "name": name, "in": "header", "description": about, "schema": string,
        }));
    };
    if endpoint.is_repeatable {
        header(
            "Idempotency-Key",
            "Names this request, so that it is done once, however often it is sent.",
        );
    }
    if endpoint.has_versions && endpoint.method == Method::GET {
        header(
            "If-None-Match",
            "The ETag of what is known: 304 when it is still the same.",
        );
    } else if endpoint.has_versions {
        header(
            "If-Match",
            "The ETag of what is to be changed: 412 when it is another now.",
        );
    }
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_description_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap();
        let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
        assert!(
            committed == made,
            "write it anew: cargo run -p weir-coordinator -- openapi > docs/openapi.json"
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_name_is_taken_once() {
        let document = document();
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        let mut names: Vec<_> = text.split("\"operationId\":\"").skip(1).collect();
        let number = names.len();
        names
            .iter_mut()
            .for_each(|name| *name = name.split('"').next().unwrap());
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), number), (number, all().len() + plain().len()));
    }
}
