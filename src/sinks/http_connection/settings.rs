//! Keys that sinks over HTTP share: endpoints and `tls`.
//!
//! Invariants: every mistake is reported at its place; what cannot work (a certificate without its key, a URL with a
//! password in it) is refused here and not by the server.

use crate::config::{Field, FilePath, Place, Section, Spanned, TableDoc};
use crate::net::tls::{self, TlsFiles};

/// `tls`.
pub(in crate::sinks) static TLS: TableDoc = TableDoc {
    name: "tls",
    doc: "Whom to trust and who we are, for `https` endpoints. Certificates are always verified.",
    fields: &[&CA, &CERT, &KEY, &SERVER_NAME],
};

static CA: Field<FilePath> = Field::new(
    "ca",
    "PEM file with the authorities to trust instead of the system's. Re-read when it changes.",
);

static CERT: Field<FilePath> =
    Field::new("cert", "PEM file with our certificate; goes with `key`.");

static KEY: Field<FilePath> = Field::new("key", "PEM file with the private key of `cert`.");

static SERVER_NAME: Field<Spanned<String>> = Field::new(
    "server_name",
    "The name that the server's certificate is for, where it is not the endpoint's host.",
);

/// An endpoint without the slash at its end; else what is wrong with it, and what is allowed.
pub(in crate::sinks) fn endpoint(text: &str) -> Result<String, (String, &'static str)> {
    let allowed = "a URL such as \"https://es.example.com:9200\"";
    let url = crate::net::http_client::Url::parse(text)
        .map_err(|error| (format!("this is no URL: {error}"), allowed))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err((
            format!("the scheme is `{}`, not http or https", url.scheme()),
            allowed,
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "credentials do not stand in a URL, where logs would show them".to_owned(),
            "a URL without them, beside `auth.basic`",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(("an endpoint ends with its path".to_owned(), allowed));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The files under `tls`; `None`: a mistake, reported.
pub(in crate::sinks) fn tls(
    section: &mut Section<'_>,
    endpoints: Option<&[String]>,
) -> Option<TlsFiles> {
    if !section.has("tls") {
        return Some(TlsFiles::default());
    }
    let at = section.place_of("tls");
    let mut table = section.table(&TLS)?;
    let path = |path: FilePath| path.0;
    let server_name = server_name(&mut table);
    let files = TlsFiles {
        ca: table.get(&CA).map(path),
        cert: table.get(&CERT).map(path),
        key: table.get(&KEY).map(path),
        server_name: server_name.clone().unwrap_or_default(),
    };
    let mut mistakes: Vec<(Place, String, &str)> = Vec::new();
    match (table.has("cert"), table.has("key")) {
        (true, false) => mistakes.push((
            table.place_of("cert"),
            "a certificate without its key".into(),
            "add `key`",
        )),
        (false, true) => mistakes.push((
            table.place_of("key"),
            "a key without its certificate".into(),
            "add `cert`",
        )),
        _ => {}
    }
    if let Some(plain) =
        endpoints.and_then(|all| all.iter().find(|endpoint| endpoint.starts_with("http:")))
    {
        let help = "name the endpoint with https, or take `tls` out";
        mistakes.push((at, format!("`tls` does nothing for {plain}"), help));
    }
    let relative = "paths are relative to the file they stand in";
    for (key, problem) in files.problems() {
        mistakes.push((table.place_of(key), problem, relative));
    }
    if mistakes.is_empty()
        && !table.failed()
        && let Err(problem) = files.client_config()
    {
        mistakes.push((at, problem, relative));
    }
    let good = mistakes.is_empty() && !table.failed();
    for (place, problem, help) in mistakes {
        table.error_at(place, problem, Some(help.to_owned()));
    }
    good.then_some(files)
}

/// `Some(None)`: none given. `None`: a mistake.
fn server_name(table: &mut Section<'_>) -> Option<Option<String>> {
    let Some(name) = table.get(&SERVER_NAME) else {
        return (!table.has("server_name")).then_some(None);
    };
    if !tls::is_server_name(&name.value) {
        table.error_at(name.at, "this is no host name or address", None);
        return None;
    }
    Some(Some(name.value))
}
