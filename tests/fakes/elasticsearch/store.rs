//! Indices, data streams, templates, and the requests on them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Flavor, answers, json as strict};
use crate::fakes::http_server::Answer;

/// Searches see a document this long after it was written, or after a refresh.
const REFRESH: Duration = Duration::from_secs(1);

/// A stored document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The plain or backing index.
    pub(crate) index: String,
    /// `_id`.
    pub(crate) id: String,
    /// The bytes as they were sent.
    pub(crate) source: Vec<u8>,
}

#[derive(Default)]
struct Index {
    documents: Vec<(String, Vec<u8>, Duration)>,
    by_id: HashMap<String, usize>,
}

/// All that the fake holds.
#[derive(Default)]
pub(super) struct Store {
    indices: BTreeMap<String, Index>,
    /// Name to backing indices, oldest first.
    data_streams: BTreeMap<String, Vec<String>>,
    templates: BTreeMap<String, Value>,
    pub(super) failures: Vec<Document>,
    pub(super) refused: Vec<Vec<u8>>,
    pub(super) diverted: Vec<Vec<u8>>,
    pub(super) refuse_everything: bool,
    pub(super) auto_create: bool,
    pub(super) now: Duration,
}

impl Store {
    pub(super) fn new() -> Self {
        Store {
            auto_create: true,
            ..Store::default()
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.indices.keys().cloned().collect()
    }

    pub(super) fn documents(&self, name: &str) -> Vec<Document> {
        let mut all = Vec::new();
        for index in self.resolve(name) {
            for (id, source, _) in &self.indices[&index].documents {
                all.push(Document {
                    index: index.clone(),
                    id: id.clone(),
                    source: source.clone(),
                });
            }
        }
        all
    }

    pub(super) fn count(&self, name: &str) -> usize {
        self.resolve(name)
            .iter()
            .map(|index| self.indices[index].documents.len())
            .sum()
    }

    /// Index names that a target stands for: an index, a data stream, a list, patterns.
    fn resolve(&self, target: &str) -> Vec<String> {
        let mut names = Vec::new();
        for part in target.split(',') {
            let matching = |name: &&String| matches_pattern(part, name);
            names.extend(
                self.data_streams
                    .iter()
                    .filter(|(name, _)| matching(name))
                    .flat_map(|(_, list)| list.clone()),
            );
            names.extend(self.indices.keys().filter(matching).cloned());
        }
        names.dedup();
        names
    }

    // --- bulk ---

    pub(super) fn bulk(
        &mut self,
        flavor: Flavor,
        target: Option<&str>,
        query: &str,
        body: &[u8],
        reject_every: Option<usize>,
    ) -> Answer {
        if body.is_empty() {
            return answers::error(400, "parse_exception", "request body is required");
        }
        if !body.ends_with(b"\n") {
            return answers::bad_request("The bulk request must be terminated by a newline [\\n]");
        }
        let mut lines = body[..body.len() - 1].split(|&byte| byte == b'\n');
        let mut operations = Vec::new();
        let mut number = 0;
        while let Some(action) = lines.next() {
            number += 1;
            if action.is_empty() {
                continue;
            }
            let Some((operation, index, id)) = read_action(action, target) else {
                let text = String::from_utf8_lossy(action);
                return answers::bad_request(&format!(
                    "Malformed action/metadata line [{number}], expected one of [create, delete, index, update] but found [{text}]"
                ));
            };
            if id.as_ref().is_some_and(|id| id.len() > 512) {
                let reason = format!(
                    "Validation Failed: 1: id [{0}] is too long, must be no longer than 512 bytes but was: {1};",
                    id.clone().unwrap_or_default(),
                    id.unwrap_or_default().len()
                );
                return answers::error(400, "action_request_validation_exception", &reason);
            }
            number += 1;
            let Some(document) = lines.next() else {
                return answers::bad_request(
                    "The bulk request must be terminated by a newline [\\n]",
                );
            };
            operations.push((operation, index, id, document));
        }
        if query.contains("pipeline=") && !query.contains("pipeline=_none") {
            return answers::bad_request("pipeline with id [nope] does not exist");
        }
        let mut errors = false;
        let mut items = Vec::new();
        for (place, (operation, index, id, document)) in operations.into_iter().enumerate() {
            let id = id.unwrap_or_else(|| {
                format!(
                    "generated-{}",
                    self.indices
                        .values()
                        .map(|i| i.documents.len())
                        .sum::<usize>()
                )
            });
            let rejected = reject_every.is_some_and(|every| place % every == every - 1);
            let item = match rejected {
                true => item_error(
                    &index,
                    &id,
                    429,
                    json!({"type": answers::rejected_type(flavor), "reason": "rejected execution of org.opensearch.action.support.replication.TransportWriteAction$1@2b6ef0c6 on OpenSearchThreadPoolExecutor[name = n1/write, queue capacity = 1]"}),
                ),
                false => self.write(flavor, &operation, &index, &id, document),
            };
            errors |= item.get("error").is_some();
            items.push(json!({operation: item}));
        }
        let body = match flavor {
            Flavor::OpenSearch => json!({"took": 7, "errors": errors, "items": items}),
            Flavor::Elasticsearch => json!({"errors": errors, "took": 7, "items": items}),
        };
        Answer::json(200, body.to_string())
    }

    fn write(
        &mut self,
        flavor: Flavor,
        operation: &str,
        target: &str,
        id: &str,
        document: &[u8],
    ) -> Value {
        let Some((index, stream)) = self.writable(target) else {
            return item_error(target, id, 404, answers::no_such_index_error(target));
        };
        if stream && operation != "create" {
            let reason = "only write ops with an op_type of create are allowed in data streams";
            return item_error(
                target,
                id,
                400,
                json!({"type": "illegal_argument_exception", "reason": reason}),
            );
        }
        if let Err((kind, reason)) = strict::check(document) {
            return item_error(
                &index,
                id,
                400,
                answers::parse_failure(flavor, kind, &reason),
            );
        }
        if stream && !has_timestamp(document) {
            let reason =
                "documents must contain a single-valued timestamp field '@timestamp' of date type";
            return item_error(
                &index,
                id,
                400,
                answers::parse_failure(flavor, "illegal_argument_exception", reason),
            );
        }
        if self.refuse_everything || self.refused.iter().any(|needle| contains(document, needle)) {
            let reason = format!(
                "failed to parse field [kubernetes.audit.poison] of type [date] in document with id '{id}'. Preview of field's value: 'x'"
            );
            return item_error(
                &index,
                id,
                400,
                json!({"type": "mapper_parsing_exception", "reason": reason}),
            );
        }
        if stream
            && self
                .diverted
                .iter()
                .any(|needle| contains(document, needle))
        {
            let index = format!(".fs-{target}-000001");
            self.failures.push(Document {
                index: index.clone(),
                id: id.to_owned(),
                source: document.to_vec(),
            });
            let mut item = item_created(&index, id, 0);
            item["failure_store"] = "used".into();
            return item;
        }
        let now = self.now;
        let held = self.indices.get_mut(&index).expect("writable made it");
        if let Some(&place) = held.by_id.get(id) {
            if operation == "create" {
                let reason = format!(
                    "[{id}]: version conflict, document already exists (current version [1])"
                );
                return item_error(
                    &index,
                    id,
                    409,
                    json!({"type": "version_conflict_engine_exception", "reason": reason, "index": index, "shard": "0", "index_uuid": "fake"}),
                );
            }
            held.documents[place].1 = document.to_vec();
            return item_created(&index, id, place);
        }
        let place = held.documents.len();
        held.by_id.insert(id.to_owned(), place);
        held.documents.push((id.to_owned(), document.to_vec(), now));
        item_created(&index, id, place)
    }

    /// The index that a write to `target` goes to, made where a real server would make it.
    fn writable(&mut self, target: &str) -> Option<(String, bool)> {
        if let Some(backing) = self.data_streams.get(target) {
            return Some((backing.last().expect("never empty").clone(), true));
        }
        if self.indices.contains_key(target) {
            return Some((target.to_owned(), target.starts_with(".ds-")));
        }
        if !self.auto_create {
            return None;
        }
        if self
            .matching_template(target)
            .is_some_and(|(_, template)| template.get("data_stream").is_some())
        {
            self.make_data_stream(target);
            return self.writable(target);
        }
        self.indices.insert(target.to_owned(), Index::default());
        Some((target.to_owned(), false))
    }

    // --- data streams and indices ---

    fn make_data_stream(&mut self, name: &str) {
        let backing = format!(".ds-{name}-000001");
        self.indices.insert(backing.clone(), Index::default());
        self.data_streams.insert(name.to_owned(), vec![backing]);
    }

    pub(super) fn create_data_stream(&mut self, name: &str) -> Answer {
        if self
            .matching_template(name)
            .is_none_or(|(_, template)| template.get("data_stream").is_none())
        {
            return answers::bad_request(&format!(
                "no matching index template found for data stream [{name}]"
            ));
        }
        self.make_data_stream(name);
        Answer::json(200, r#"{"acknowledged":true}"#)
    }

    pub(super) fn create_index(&mut self, name: &str) -> Answer {
        if self.indices.contains_key(name) {
            return answers::error(
                400,
                "resource_already_exists_exception",
                &format!("index [{name}/fake] already exists"),
            );
        }
        self.indices.insert(name.to_owned(), Index::default());
        Answer::json(
            200,
            json!({"acknowledged": true, "shards_acknowledged": true, "index": name}).to_string(),
        )
    }

    pub(super) fn rollover(&mut self, name: &str) -> Option<(String, String)> {
        let list = self.data_streams.get_mut(name)?;
        let (old, new) = (
            list.last()?.clone(),
            format!(".ds-{name}-{:06}", list.len() + 1),
        );
        list.push(new.clone());
        self.indices.insert(new.clone(), Index::default());
        Some((old, new))
    }

    pub(super) fn rollover_answer(&mut self, name: &str) -> Answer {
        match self.rollover(name) {
            None => answers::no_such_index(name),
            Some((old, new)) => Answer::json(
                200,
                json!({"acknowledged": true, "shards_acknowledged": true, "old_index": old,
                "new_index": new, "rolled_over": true, "dry_run": false, "conditions": {}})
                .to_string(),
            ),
        }
    }

    pub(super) fn data_stream(&self, pattern: &str) -> Answer {
        let mut found = Vec::new();
        for (name, backing) in self
            .data_streams
            .iter()
            .filter(|(name, _)| matches_pattern(pattern, name))
        {
            let indices: Vec<Value> = backing
                .iter()
                .map(|index| json!({"index_name": index, "index_uuid": format!("uuid-{index}")}))
                .collect();
            found.push(
                json!({"name": name, "timestamp_field": {"name": "@timestamp"}, "indices": indices,
                "generation": backing.len(), "status": "GREEN",
                "template": self.matching_template(name).map(|(template, _)| template)}),
            );
        }
        if found.is_empty() && !pattern.contains('*') {
            return answers::no_such_index(pattern);
        }
        Answer::json(200, json!({"data_streams": found}).to_string())
    }

    pub(super) fn mappings(&self, target: &str) -> Answer {
        let names = self.resolve(target);
        if names.is_empty() && !target.contains('*') {
            return answers::no_such_index(target);
        }
        let mut body = json!({});
        for name in names {
            body[&name] = json!({"mappings": self.mapping(&name)});
        }
        Answer::json(200, body.to_string())
    }

    /// The mapping of a plain or backing index, as its template has it.
    fn mapping(&self, index: &str) -> Value {
        let stream = self
            .data_streams
            .iter()
            .find(|(_, list)| list.iter().any(|one| one == index));
        let template = self.matching_template(stream.map_or(index, |(name, _)| name));
        let mapping = template.and_then(|(_, template)| template.pointer("/template/mappings"));
        let mut mapping = mapping.cloned().unwrap_or_else(|| json!({}));
        if let Some(dynamic) = mapping.get("dynamic").cloned() {
            mapping["dynamic"] = dynamic
                .as_str()
                .map_or(dynamic.to_string(), str::to_owned)
                .into();
        }
        if stream.is_some() && mapping.is_object() {
            mapping["_data_stream_timestamp"] = json!({"enabled": true});
        }
        mapping
    }

    pub(super) fn describe(&self, target: &str) -> Answer {
        let names = self.resolve(target);
        if names.is_empty() && !target.contains('*') {
            return answers::no_such_index(target);
        }
        let mut body = json!({});
        for name in names {
            let mut one = json!({"aliases": {}, "mappings": {}, "settings": {"index": {"provided_name": name, "uuid": format!("uuid-{name}")}}});
            if let Some((stream, _)) = self
                .data_streams
                .iter()
                .find(|(_, list)| list.contains(&name))
            {
                one["data_stream"] = stream.as_str().into();
            }
            one["mappings"] = self.mapping(&name);
            body[&name] = one;
        }
        Answer::json(200, body.to_string())
    }

    pub(super) fn refresh(&mut self, target: &str) -> Answer {
        for name in self.resolve(target) {
            let index = self.indices.get_mut(&name).expect("resolved");
            index
                .documents
                .iter_mut()
                .for_each(|(_, _, written)| *written = Duration::ZERO);
        }
        Answer::json(200, r#"{"_shards":{"total":1,"successful":1,"failed":0}}"#)
    }

    // --- templates ---

    fn matching_template(&self, name: &str) -> Option<(&String, &Value)> {
        let fits = |template: &Value| {
            let patterns = template["index_patterns"].as_array();
            patterns.is_some_and(|all| {
                all.iter()
                    .filter_map(Value::as_str)
                    .any(|pattern| matches_pattern(pattern, name))
            })
        };
        let fitting = self.templates.iter().filter(|(_, template)| fits(template));
        fitting.max_by_key(|(_, template)| template["priority"].as_i64().unwrap_or(0))
    }

    pub(super) fn put_template(&mut self, name: &str, body: &[u8]) -> Answer {
        let template: Value = match serde_json::from_slice(body) {
            Ok(template) => template,
            Err(error) => return answers::error(400, "parse_exception", &error.to_string()),
        };
        const KNOWN: &[&str] = &[
            "index_patterns",
            "template",
            "priority",
            "data_stream",
            "composed_of",
            "version",
            "_meta",
            "allow_auto_create",
        ];
        let Some(object) = template
            .as_object()
            .filter(|object| object.contains_key("index_patterns"))
        else {
            return answers::bad_request("Required [index_patterns]");
        };
        if let Some(unknown) = object.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return answers::error(
                400,
                "x_content_parse_exception",
                &format!("[1:26] [index_template] unknown field [{unknown}]"),
            );
        }
        self.templates.insert(name.to_owned(), template);
        Answer::json(200, r#"{"acknowledged":true}"#)
    }

    pub(super) fn template(&self, pattern: &str) -> Answer {
        let mut found = Vec::new();
        for (name, template) in self
            .templates
            .iter()
            .filter(|(name, _)| matches_pattern(pattern, name))
        {
            found.push(json!({"name": name, "index_template": template}));
        }
        if found.is_empty() && !pattern.contains('*') {
            return answers::error(
                404,
                "resource_not_found_exception",
                &format!("index template matching [{pattern}] not found"),
            );
        }
        Answer::json(200, json!({"index_templates": found}).to_string())
    }

    pub(super) fn simulate(&self, name: &str) -> Answer {
        let Some((chosen, template)) = self.matching_template(name) else {
            return Answer::json(200, "{}");
        };
        let inner = template
            .get("template")
            .cloned()
            .unwrap_or_else(|| json!({}));
        // Settings come back below `index`, every value a string, whatever they were put as.
        let mut settings = json!({});
        for (key, value) in inner["settings"].as_object().into_iter().flatten() {
            flatten_setting(&mut settings, key, value);
        }
        let mut mappings = inner.get("mappings").cloned().unwrap_or_else(|| json!({}));
        if let Some(dynamic) = mappings.get("dynamic").cloned() {
            mappings["dynamic"] = dynamic
                .as_str()
                .map_or(dynamic.to_string(), str::to_owned)
                .into();
        }
        let overlapping: Vec<Value> = self
            .templates
            .iter()
            .filter(|(other, template)| {
                *other != chosen && template["index_patterns"].as_array().is_some_and(|all| all.iter().filter_map(Value::as_str).any(|pattern| matches_pattern(pattern, name)))
            })
            .map(|(other, template)| json!({"name": other, "index_patterns": template["index_patterns"]}))
            .collect();
        Answer::json(200, json!({"template": {"settings": settings, "mappings": mappings, "aliases": {}}, "overlapping": overlapping}).to_string())
    }

    // --- reading ---

    pub(super) fn mget(&self, target: Option<&str>, body: &[u8]) -> Answer {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return answers::bad_request("not JSON");
        };
        let mut wanted: Vec<(String, String)> = Vec::new();
        for id in body["ids"].as_array().into_iter().flatten() {
            wanted.push((
                target.unwrap_or_default().to_owned(),
                id.as_str().unwrap_or_default().to_owned(),
            ));
        }
        for doc in body["docs"].as_array().into_iter().flatten() {
            let index = doc["_index"].as_str().or(target).unwrap_or_default();
            wanted.push((
                index.to_owned(),
                doc["_id"].as_str().unwrap_or_default().to_owned(),
            ));
        }
        if wanted.is_empty() {
            return answers::error(
                400,
                "action_request_validation_exception",
                "Validation Failed: 1: no documents to get;",
            );
        }
        let mut text = String::from("{\"docs\":[");
        for (place, (index, id)) in wanted.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            match self.indices.get(index) {
                // A data stream's name is no index here: the real ones answer "no such index [null]".
                None => {
                    let name = if self.data_streams.contains_key(index) {
                        "null"
                    } else {
                        index
                    };
                    let mut error = answers::no_such_index_error(name);
                    if name == "null" {
                        error
                            .as_object_mut()
                            .expect("an object")
                            .shift_remove("index");
                    }
                    let mut error_body = json!({"root_cause": [error]});
                    answers::merge(&mut error_body, &error);
                    text.push_str(
                        &json!({"_index": index, "_id": id, "error": error_body}).to_string(),
                    );
                }
                Some(held) => match held.by_id.get(id) {
                    None => text
                        .push_str(&json!({"_index": index, "_id": id, "found": false}).to_string()),
                    Some(&place) => text.push_str(&found(
                        index,
                        id,
                        &held.documents[place].1,
                        "\"_version\":1,\"_seq_no\":0,\"_primary_term\":1,\"found\":true",
                    )),
                },
            }
        }
        text.push_str("]}");
        Answer::json(200, text)
    }

    /// How many documents a search sees in each index, newest name first.
    fn count_by_index(&self, indices: &[String], terms: &Value) -> Answer {
        let mut buckets = Vec::new();
        let mut total = 0;
        for name in indices.iter().rev() {
            let documents = &self.indices[name].documents;
            let count = documents
                .iter()
                .filter(|(_, _, written)| self.is_searchable(*written))
                .count();
            total += count;
            if count > 0 {
                buckets.push(json!({"key": name, "doc_count": count}));
            }
        }
        buckets.truncate(
            terms["size"]
                .as_u64()
                .map_or(10, |size| usize::try_from(size).unwrap_or(usize::MAX)),
        );
        Answer::json(200, json!({"timed_out": false, "hits": {"total": {"value": total, "relation": "eq"}, "hits": []},
            "aggregations": {"indices": {"doc_count_error_upper_bound": 0, "sum_other_doc_count": 0, "buckets": buckets}}}).to_string())
    }

    fn is_searchable(&self, written: Duration) -> bool {
        self.now.saturating_sub(written) >= REFRESH || written == Duration::ZERO
    }

    pub(super) fn search(&self, target: &str, body: &[u8]) -> Answer {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return answers::bad_request("not JSON");
        };
        let indices = self.resolve(target);
        if indices.is_empty() && !target.contains('*') {
            return answers::no_such_index(target);
        }
        if body.pointer("/aggs/indices/terms/field") == Some(&json!("_index")) {
            return self.count_by_index(&indices, &body["aggs"]["indices"]["terms"]);
        }
        let Some(ids) = body.pointer("/query/ids/values").and_then(Value::as_array) else {
            return answers::error(400, "parsing_exception", "this fake searches by ids alone");
        };
        let size = body["size"].as_u64().unwrap_or(10);
        let mut hits = Vec::new();
        for index in &indices {
            let held = &self.indices[index];
            for id in ids.iter().filter_map(Value::as_str) {
                let Some(&place) = held.by_id.get(id) else {
                    continue;
                };
                let (_, source, written) = &held.documents[place];
                // Not refreshed yet: a search does not see it.
                if self.is_searchable(*written) {
                    hits.push(found(index, id, source, "\"_score\":1.0"));
                }
            }
        }
        let total = hits.len();
        hits.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Answer::json(
            200,
            format!(
                r#"{{"took":5,"timed_out":false,"_shards":{{"total":1,"successful":1,"skipped":0,"failed":0}},"hits":{{"total":{{"value":{total},"relation":"eq"}},"max_score":1.0,"hits":[{}]}}}}"#,
                hits.join(",")
            ),
        )
    }
}

fn read_action(action: &[u8], target: Option<&str>) -> Option<(String, String, Option<String>)> {
    let action: Value = serde_json::from_slice(action).ok()?;
    let (operation, meta) = action.as_object()?.iter().next()?;
    if !["create", "index"].contains(&operation.as_str()) {
        return None;
    }
    let index = meta["_index"].as_str().or(target)?;
    Some((
        operation.clone(),
        index.to_owned(),
        meta["_id"].as_str().map(str::to_owned),
    ))
}

fn item_created(index: &str, id: &str, place: usize) -> Value {
    json!({"_index": index, "_id": id, "_version": 1, "result": "created",
           "_shards": {"total": 1, "successful": 1, "failed": 0}, "_seq_no": place, "_primary_term": 1, "status": 201})
}

fn item_error(index: &str, id: &str, status: u16, error: Value) -> Value {
    json!({"_index": index, "_id": id, "status": status, "error": error})
}

/// `_source` is the stored bytes, not a copy made by a parser.
fn found(index: &str, id: &str, source: &[u8], more: &str) -> String {
    let source = String::from_utf8_lossy(source);
    format!(
        "{{\"_index\":{},\"_id\":{},{more},\"_source\":{source}}}",
        json!(index),
        json!(id)
    )
}

fn has_timestamp(document: &[u8]) -> bool {
    let top: Result<HashMap<String, &RawValue>, _> = serde_json::from_slice(document);
    top.is_ok_and(|top| {
        top.get("@timestamp")
            .is_some_and(|value| !value.get().starts_with(['[', '{', 'n']))
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

/// `*` stands for anything.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => {
            let Some(tail) = name.strip_prefix(head) else {
                return false;
            };
            (0..=tail.len())
                .filter(|&at| tail.is_char_boundary(at))
                .any(|at| matches_pattern(rest, &tail[at..]))
        }
    }
}

fn flatten_setting(settings: &mut Value, key: &str, value: &Value) {
    let key = key.strip_prefix("index.").unwrap_or(key);
    if key == "index" {
        for (key, value) in value.as_object().into_iter().flatten() {
            flatten_setting(settings, key, value);
        }
        return;
    }
    let mut place = &mut settings["index"];
    for part in key.split('.') {
        place = &mut place[part];
    }
    *place = match value {
        Value::String(_) | Value::Object(_) => value.clone(),
        other => other.to_string().into(),
    };
}
