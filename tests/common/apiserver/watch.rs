//! Watches, and the streaming lists that begin some of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::fault::What;
use super::request::{Asked, Verb};
use super::selector::Selector;
use super::serve::{Piece, send_in_pieces};
use super::store::{Change, Refusal};
use super::{Shared, Signal};

/// Begins a watch and returns where its lines come out.
pub fn open(
    asked: &Asked,
    fault: Option<What>,
    shared: &Arc<Shared>,
) -> Result<mpsc::UnboundedReceiver<Piece>, Refusal> {
    check(asked)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    let (version, signals) = {
        let state = shared.state();
        let version = match asked.number("resourceVersion")? {
            Some(version) if version > 0 => version,
            _ => state.store.version(),
        };
        (version, state.signals.len())
    };
    let timeout = Duration::from_secs(asked.number("timeoutSeconds")?.unwrap_or(1800));
    let watch = Watch {
        selector: Selector::of(asked)?,
        end: Instant::now() + timeout,
        asked: asked.clone(),
        cut_after: if let Some(What::CutAfter(lines)) = fault { Some(lines) } else { None },
        fault,
        shared: Arc::clone(shared),
        sender,
        version,
        signals,
    };
    tokio::spawn(watch.run());
    Ok(receiver)
}

fn check(asked: &Asked) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(422, "Invalid", message.to_owned()));
    let matching = asked.parameter("resourceVersionMatch");
    match asked.verb {
        Verb::StreamingList if matching != "NotOlderThan" => {
            invalid("resourceVersionMatch: Required value: NotOlderThan")
        }
        Verb::StreamingList if asked.parameter("allowWatchBookmarks") != "true" => {
            invalid("allowWatchBookmarks: Required value")
        }
        Verb::Watch if !matching.is_empty() => {
            invalid("resourceVersionMatch: Forbidden: for watch unless sendInitialEvents is provided")
        }
        _ => Ok(()),
    }
}

struct Watch {
    asked: Asked,
    selector: Selector,
    shared: Arc<Shared>,
    sender: mpsc::UnboundedSender<Piece>,
    fault: Option<What>,
    /// Lines to go until the connection breaks.
    cut_after: Option<usize>,
    end: Instant,
    version: u64,
    /// Signals already obeyed.
    signals: usize,
}

/// The watch is over.
struct Over;

impl Watch {
    async fn run(mut self) {
        match self.fault {
            Some(What::Silent) => return self.sender.closed().await,
            Some(What::GoneInStream) => {
                let gone = Refusal::expired("too old resource version: as told".to_owned());
                let _ = self.line("ERROR", &gone.body);
                return;
            }
            Some(What::FaultInStream) => {
                let _ = self.line("ERROR", &Refusal::new(500, "InternalError", "as told".to_owned()).body);
                return;
            }
            _ => {}
        }
        if self.begin().await.is_err() {
            return;
        }
        let resource = self.asked.resource;
        self.shared.change(|state| state.open.push(resource));
        self.go_on().await;
        self.shared.change(|state| {
            let at = state.open.iter().position(|open| *open == resource).unwrap();
            state.open.remove(at);
        });
    }

    async fn go_on(&mut self) {
        let mut ticks = self.shared.tick.subscribe();
        loop {
            ticks.borrow_and_update();
            if self.tell_changes().is_err() || self.obey_signals().is_err() {
                return;
            }
            tokio::select! {
                _ = ticks.changed() => {}
                () = sleep_until(self.end) => return,
                () = self.sender.closed() => return,
            }
        }
    }

    /// What existed at the beginning, where that was asked for: also, without a mark, by a watch from no version.
    async fn begin(&mut self) -> Result<(), Over> {
        let from_nowhere = matches!(self.asked.parameter("resourceVersion"), "" | "0");
        if self.asked.verb == Verb::Watch && !from_nowhere {
            let remembered = self.shared.state().store.remembers(self.version);
            return remembered.or_else(|refusal| {
                self.line("ERROR", &refusal.body)?;
                Err(Over)
            });
        }
        let existing = self.shared.state().store.at(self.asked.resource, self.version);
        for (count, object) in existing.unwrap_or_default().values().enumerate() {
            if self.selector.selects(object) && self.fault != Some(What::Empty) {
                self.line("ADDED", object)?;
            }
            // What is there goes out before all is written, as from any server.
            if count % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        match (self.asked.verb, self.fault.clone()) {
            (Verb::StreamingList, Some(What::WithoutEnd)) => Err(Over),
            (Verb::StreamingList, Some(What::LineBeforeEnd(line))) => {
                self.raw(&format!("{line}\n"))?;
                self.bookmark(json!({"k8s.io/initial-events-end": "true"}))
            }
            (Verb::StreamingList, _) => self.bookmark(json!({"k8s.io/initial-events-end": "true"})),
            _ => Ok(()),
        }
    }

    fn tell_changes(&mut self) -> Result<(), Over> {
        let (changes, newest) = {
            let store = &self.shared.state().store;
            (store.since(self.asked.resource, self.version), store.version())
        };
        self.version = newest;
        changes.iter().try_for_each(|change| self.tell(change))
    }

    fn tell(&mut self, change: &Change) -> Result<(), Over> {
        let selected = |object: &Option<Arc<Value>>| {
            object.as_ref().filter(|object| self.selector.selects(object)).map(Arc::clone)
        };
        match (selected(&change.before), selected(&change.after)) {
            (None, None) => Ok(()),
            (None, Some(after)) => self.line("ADDED", &after),
            (Some(_), Some(after)) => self.line("MODIFIED", &after),
            (Some(before), None) => {
                let mut before = Value::clone(&before);
                before["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.line("DELETED", &before)
            }
        }
    }

    fn obey_signals(&mut self) -> Result<(), Over> {
        let signals = self.shared.state().signals[self.signals..].to_vec();
        for signal in signals {
            self.signals += 1;
            match signal {
                Signal::Bookmark => self.bookmark(json!({}))?,
                Signal::Line(line) => self.raw(&format!("{line}\n"))?,
                Signal::Partial(line) => {
                    self.raw(&line)?;
                    return Err(Over);
                }
                Signal::End => return Err(Over),
                Signal::Break => {
                    let _ = self.sender.send(Err(io::Error::other("as told")));
                    return Err(Over);
                }
            }
        }
        Ok(())
    }

    fn bookmark(&mut self, annotations: Value) -> Result<(), Over> {
        if self.asked.parameter("allowWatchBookmarks") != "true" {
            return Ok(());
        }
        let metadata = json!({"resourceVersion": self.version.to_string(), "annotations": annotations});
        self.line("BOOKMARK", &json!({"kind": "Any", "apiVersion": "v1", "metadata": metadata}))
    }

    fn line(&mut self, change: &str, object: &Value) -> Result<(), Over> {
        self.raw(&format!("{{\"type\":\"{change}\",\"object\":{object}}}\n"))
    }

    fn raw(&mut self, line: &str) -> Result<(), Over> {
        let piece = self.shared.state().piece;
        match &mut self.cut_after {
            Some(0) => {
                send_in_pieces(&self.sender, &line.as_bytes()[..line.len() / 2], piece);
                let _ = self.sender.send(Err(io::Error::other("as told")));
                return Err(Over);
            }
            Some(lines) => *lines -= 1,
            None => {}
        }
        send_in_pieces(&self.sender, line.as_bytes(), piece);
        Ok(())
    }
}
