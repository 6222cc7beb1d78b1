//! One manifest file -> the objects in it.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::sync::objects::Kind;

use super::super::decode::{self, Decoded, Interner};

/// Why something in a file is not used.
#[derive(Debug, Error)]
#[error("{}: {}{message}", path.display(), document.map(|n| format!("document {n}: ")).unwrap_or_default())]
pub struct FileError {
    pub path: PathBuf,
    /// Counted from 1.
    pub document: Option<usize>,
    pub message: String,
}

/// What a file says, in its order.
pub type Objects = Vec<(Kind, Decoded)>;

/// Reads all documents of a YAML or JSON file, and says what of it makes no sense.
///
/// An object with problems counts, and so does one that is undecodable but has a name. A document without sense costs the
/// others nothing; but where the text itself is broken, nobody can tell where the next document would begin.
pub fn read_file(path: &Path, names: &mut Interner) -> (Objects, Vec<FileError>) {
    let mut reader = Reader { path, document: 0, names, objects: Vec::new(), errors: Vec::new() };
    match File::open(path) {
        Ok(file) => reader.read(BufReader::new(file)),
        Err(error) => reader.errors.push(reader.whole(&error)),
    }
    (reader.objects, reader.errors)
}

/// 10,000 Services in one `List` are no attack; a bomb of aliases still is.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        with_snippet: false,
    }
}

struct Reader<'a> {
    path: &'a Path,
    document: usize,
    names: &'a mut Interner,
    objects: Objects,
    errors: Vec<FileError>,
}

impl Reader<'_> {
    fn read(&mut self, mut file: BufReader<File>) {
        if self.path.extension().is_some_and(|extension| extension == "json") {
            self.documents(serde_json::Deserializer::from_reader(file).into_iter());
        } else {
            self.documents(serde_saphyr::read_with_options(&mut file, options()));
        }
    }

    fn documents<E: std::fmt::Display>(&mut self, documents: impl Iterator<Item = Result<Value, E>>) {
        for document in documents {
            self.document += 1;
            let (broken, read) = match document {
                Ok(document) => (false, self.document(&document)),
                Err(error) => (true, Err(self.error(error))),
            };
            self.note(read);
            if broken {
                return;
            }
        }
    }

    fn note(&mut self, read: Result<(), FileError>) {
        self.errors.extend(read.err());
    }

    fn document(&mut self, document: &Value) -> Result<(), FileError> {
        if document.is_null() {
            return Ok(());
        }
        let (version, kind) = (self.header(document, "apiVersion")?, self.header(document, "kind")?);
        match (version, kind.strip_suffix("List")) {
            ("v1", Some("")) => self.items(document, None),
            (version, Some(kind)) => match known(version, kind) {
                Some(kind) => self.items(document, Some(kind)),
                None => Ok(()),
            },
            (version, None) => self.object(known(version, kind), document),
        }
    }

    fn items(&mut self, list: &Value, kind: Option<Kind>) -> Result<(), FileError> {
        let items = match &list["items"] {
            Value::Null => return Ok(()),
            Value::Array(items) => items,
            _ => return Err(self.error("items: is not a list")),
        };
        for item in items {
            let read = self.item(item, kind);
            self.note(read);
        }
        Ok(())
    }

    fn item(&mut self, item: &Value, kind: Option<Kind>) -> Result<(), FileError> {
        let kind = match kind {
            Some(kind) => Some(kind),
            None => known(self.header(item, "apiVersion")?, self.header(item, "kind")?),
        };
        self.object(kind, item)
    }

    fn object(&mut self, kind: Option<Kind>, value: &Value) -> Result<(), FileError> {
        let Some(kind) = kind else { return Ok(()) };
        let decoded = decode::object(kind, value, self.names).map_err(|error| self.error(error))?;
        let decoded = match decoded {
            Decoded::Undecodable { name: None, error } => {
                return Err(self.error(format_args!("{kind} {error}")));
            }
            Decoded::Undecodable { name, error } => {
                Decoded::Undecodable { name, error: self.error(error).to_string() }
            }
            decoded => decoded,
        };
        self.objects.push((kind, decoded));
        Ok(())
    }

    fn header<'v>(&self, value: &'v Value, field: &str) -> Result<&'v str, FileError> {
        match value.get(field) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.error(format_args!("{field}: is not a string"))),
            None => Err(self.error(format_args!("{field}: is missing"))),
        }
    }

    fn error(&self, message: impl std::fmt::Display) -> FileError {
        FileError { document: Some(self.document), ..self.whole(&message) }
    }

    fn whole(&self, message: &dyn std::fmt::Display) -> FileError {
        FileError { path: self.path.to_owned(), document: None, message: message.to_string() }
    }
}

/// Other groups have kinds of the same names, such as Knative's Service.
fn known(version: &str, kind: &str) -> Option<Kind> {
    match (version, kind) {
        ("v1", "Service") => Some(Kind::Service),
        ("v1", "Node") => Some(Kind::Node),
        ("discovery.k8s.io/v1", "EndpointSlice") => Some(Kind::EndpointSlice),
        ("networking.k8s.io/v1", "ServiceCIDR") => Some(Kind::ServiceCidr),
        _ => {
            tracing::debug!(version, kind, "manifest of a kind that the proxy does not use");
            None
        }
    }
}
