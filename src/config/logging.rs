//! Log lines as Kubernetes' node components write them, so that what collects theirs can read ours.

use std::fmt::{self, Write as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use super::{LogFormat, Logging};

/// Sends log lines to standard error from now on. May be called once.
pub fn init(logging: &Logging) -> Result<(), TryInitError> {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .event_format(Lines { format: logging.format, clock: jiff::Timestamp::now });
    tracing_subscriber::registry().with(filter(logging.verbosity)).with(lines).try_init()
}

/// klog's verbosity as levels. Libraries stay at what an operator can use until the highest.
fn filter(verbosity: u32) -> Targets {
    let (ours, libraries) = match verbosity {
        0..=3 => (LevelFilter::INFO, LevelFilter::WARN),
        4..=5 => (LevelFilter::DEBUG, LevelFilter::INFO),
        6..=7 => (LevelFilter::TRACE, LevelFilter::DEBUG),
        _ => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    // kube logs every failed request as an error of its own; the source says it in context.
    let client = if verbosity < 6 { LevelFilter::OFF } else { libraries };
    Targets::new()
        .with_default(libraries)
        .with_target("kube_client", client)
        .with_target(env!("CARGO_CRATE_NAME"), ours)
}

struct Lines {
    format: LogFormat,
    clock: fn() -> jiff::Timestamp,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = (self.clock)();
        match self.format {
            LogFormat::Text => write_text(&mut writer, now, event.metadata(), &fields),
            LogFormat::Json => write_json(&mut writer, now, event.metadata(), fields),
        }
    }
}

/// `I1121 09:30:00.123456       1 file.rs:123] "Message" key="value"`
fn write_text(
    writer: &mut Writer<'_>,
    now: jiff::Timestamp,
    metadata: &Metadata<'_>,
    fields: &Fields,
) -> fmt::Result {
    let letter = match *metadata.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    let time = now.strftime("%m%d %H:%M:%S.%6f");
    write!(writer, "{letter}{time} {:>7} {}] {:?}", std::process::id(), caller(metadata), fields.message)?;
    for (name, value) in &fields.values {
        write!(writer, " {name}={value}")?;
    }
    writer.write_char('\n')
}

/// `{"ts":1574317624000.1234,"caller":"file.rs:123","msg":"Message","v":0,"key":"value"}`, with milliseconds in `ts`.
fn write_json(
    writer: &mut Writer<'_>,
    now: jiff::Timestamp,
    metadata: &Metadata<'_>,
    fields: Fields,
) -> fmt::Result {
    let mut line = Map::new();
    line.insert("ts".to_owned(), (now.as_nanosecond() as f64 / 1e6).into());
    line.insert("caller".to_owned(), caller(metadata).into());
    line.insert("msg".to_owned(), fields.message.into());
    let verbosity = match *metadata.level() {
        Level::ERROR => None,
        Level::WARN | Level::INFO => Some(0),
        Level::DEBUG => Some(4),
        Level::TRACE => Some(6),
    };
    line.extend(verbosity.map(|v| ("v".to_owned(), v.into())));
    line.extend(fields.values);
    writeln!(writer, "{}", Value::Object(line))
}

fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let file = file.rsplit('/').next().unwrap_or(file);
    format!("{file}:{}", metadata.line().unwrap_or_default())
}

/// What a log line says, in the order of the call. Texts are quoted when printed, numbers and booleans are not.
#[derive(Default)]
struct Fields {
    message: String,
    values: Vec<(String, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        self.values.push((field.name().to_owned(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.push(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.push(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    /// With its causes, which a chain of errors says only when asked.
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.push(field, text.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Captured;

        fn make_writer(&self) -> Captured {
            self.clone()
        }
    }

    /// What `log` writes, with the process id and the line number, which differ from run to run, taken out.
    fn captured(format: LogFormat, verbosity: u32, log: impl FnOnce()) -> String {
        let output = Captured::default();
        let clock = || "2026-11-21T09:30:00.123456789Z".parse().unwrap();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(output.clone())
            .event_format(Lines { format, clock });
        let subscriber = tracing_subscriber::registry().with(filter(verbosity)).with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        let text = text.replace(&format!("{:>7}", std::process::id()), "    PID");
        let (before, after) = text.split_once("logging.rs:").unwrap_or((&text, ""));
        format!("{before}logging.rs:LINE{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
    }

    #[test]
    fn text_is_that_of_klog() {
        let line = captured(LogFormat::Text, 0, || {
            tracing::warn!(service = "ns/\"svc\"", count = 3, ready = true, "Not\nquite");
        });
        let expected = "W1121 09:30:00.123456     PID logging.rs:LINE] \"Not\\nquite\" \
                        service=\"ns/\\\"svc\\\"\" count=3 ready=true\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn json_is_that_of_kubernetes() {
        let line = captured(LogFormat::Json, 0, || tracing::info!(count = 3, "Synced"));
        let expected = "{\"caller\":\"logging.rs:LINE\",\"count\":3,\"msg\":\"Synced\",\"ts\":1795253400123.4568,\"v\":0}\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn errors_come_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot sync")]
        struct Failure(#[source] io::Error);
        let failure = Failure(io::Error::other("no permission"));
        let line = captured(LogFormat::Text, 0, || {
            tracing::error!(err = &failure as &(dyn std::error::Error + 'static), "Sync failed");
        });
        assert!(line.ends_with("\"Sync failed\" err=\"cannot sync: no permission\"\n"), "{line}");
    }

    #[test]
    fn verbosity_chooses_the_level() {
        let shown = |verbosity| {
            let text = captured(LogFormat::Text, verbosity, || {
                tracing::debug!("debug");
                tracing::trace!("trace");
                tracing::info!(target: "hyper::proto", "library");
            });
            ["debug", "trace", "library"].map(|word| text.contains(word))
        };
        assert_eq!(shown(0), [false, false, false]);
        assert_eq!(shown(3), [false, false, false]);
        assert_eq!(shown(4), [true, false, true]);
        assert_eq!(shown(6), [true, true, true]);
    }
}
