//! A directory of manifests, and what changed in it since it was last read.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use crate::model::ServiceName;
use crate::sync::objects::{Event, Kind, Object};

use super::super::Selection;
use super::super::decode::{Decoded, Interner};
use super::read::{FileError, Objects, read_file};

type Key = (Kind, ServiceName);

/// What the directory held at the last look, without the objects themselves: the store has those.
pub struct Directory {
    path: PathBuf,
    selection: Selection,
    names: Interner,
    files: BTreeMap<PathBuf, Known>,
    sent: HashMap<Key, Sent>,
    /// Some object stands in several files: which one counts may change without a change of the file.
    contested: bool,
}

/// What is remembered of a file.
struct Known {
    /// `None` where the file may have changed again since it was read, without its stamp showing it.
    stamp: Option<Stamp>,
    /// In the order of the file, as they last made sense.
    objects: Vec<(Key, Content)>,
}

/// Changes whenever a file's content may have.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: SystemTime,
    inode: (u64, u64),
    length: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    Object(Fingerprint),
    /// There, but it makes no sense: what it was before stays in force.
    Undecodable,
}

#[derive(Clone, Copy)]
struct Sent(Option<Fingerprint>);

/// A hash of all that the proxy knows of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint(u64);

/// What a look at the directory brought.
#[derive(Default)]
pub struct Seen {
    pub events: Vec<Event>,
    /// What made no sense, and is left as it had been.
    pub malformed: Vec<FileError>,
}

impl Directory {
    pub fn new(path: PathBuf, selection: Selection) -> Directory {
        Directory {
            path,
            selection,
            names: Interner::default(),
            files: BTreeMap::new(),
            sent: HashMap::new(),
            contested: false,
        }
    }

    /// Reads what changed, and says so in events.
    pub fn look(&mut self) -> io::Result<Seen> {
        let mut seen = Seen::default();
        let mut fresh = HashMap::new();
        let present = manifests_in(&self.path)?;
        self.files.retain(|path, _| present.contains_key(path));
        for (path, stamp) in present {
            self.look_at(path, stamp, &mut fresh, &mut seen);
        }
        self.tell_differences(fresh, &mut seen.events);
        Ok(seen)
    }

    fn look_at(&mut self, path: PathBuf, stamp: Stamp, fresh: &mut HashMap<Key, Object>, seen: &mut Seen) {
        let known = self.files.get(&path);
        if !self.contested && known.is_some_and(|known| known.stamp == Some(stamp)) {
            return;
        }
        let stamp = stamp.settled();
        let (read, errors) = read_file(&path, &mut self.names);
        let mut objects = self.note(read, fresh, &mut seen.events);
        if !errors.is_empty() {
            // What makes no sense may be the new state of any object that the file held before.
            let before = known.into_iter().flat_map(|known| &known.objects);
            let read: HashSet<&Key> = objects.iter().map(|(key, _)| key).collect();
            let missing = before.filter(|(key, _)| !read.contains(key));
            let missing: Vec<_> = missing.map(|(key, _)| (key.clone(), Content::Undecodable)).collect();
            objects.extend(missing);
        }
        seen.malformed.extend(errors);
        self.files.insert(path, Known { stamp, objects });
    }

    /// Splits a file's objects into what is remembered of them and what is only needed now.
    fn note(
        &self,
        objects: Objects,
        fresh: &mut HashMap<Key, Object>,
        events: &mut Vec<Event>,
    ) -> Vec<(Key, Content)> {
        let mut noted = Vec::with_capacity(objects.len());
        for (kind, decoded) in objects {
            let Some(name) = decoded.name() else { continue };
            if !self.selection.takes(kind, &name) {
                continue;
            }
            let key = (kind, name);
            match decoded {
                Decoded::Object(object) => {
                    noted.push((key.clone(), Content::Object(Fingerprint::of(&object))));
                    fresh.entry(key).or_insert(object);
                }
                Decoded::Ignored(_) => {}
                undecodable @ Decoded::Undecodable { .. } => {
                    events.push(undecodable.into_event(kind));
                    noted.push((key, Content::Undecodable));
                }
            }
        }
        noted
    }

    fn tell_differences(&mut self, mut fresh: HashMap<Key, Object>, events: &mut Vec<Event>) {
        let wanted = self.merge();
        self.sent.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                events.push(Event::Deleted(key.0, key.1.clone()));
            }
            stays
        });
        for (key, content) in wanted {
            let sent = self.sent.entry(key.clone()).or_insert(Sent(None));
            let Content::Object(fingerprint) = content else { continue };
            if sent.0 != Some(fingerprint)
                && let Some(object) = fresh.remove(&key)
            {
                *sent = Sent(Some(fingerprint));
                events.push(Event::Applied(object));
            }
        }
    }

    /// The objects of all files; of several with one name, that of the first file counts.
    fn merge(&mut self) -> HashMap<Key, Content> {
        let mut merged = HashMap::new();
        self.contested = false;
        for (path, known) in &self.files {
            for (key, content) in &known.objects {
                match merged.entry(key.clone()) {
                    Entry::Vacant(entry) => drop(entry.insert(*content)),
                    Entry::Occupied(_) => {
                        self.contested = true;
                        tracing::warn!(file = %path.display(), "{} {} is given twice, the first counts", key.0, key.1);
                    }
                }
            }
        }
        merged
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Stamp {
        use std::os::unix::fs::MetadataExt;
        let seconds = Duration::from_secs(metadata.ctime().try_into().unwrap_or(0));
        let nanos = Duration::from_nanos(metadata.ctime_nsec().try_into().unwrap_or(0));
        Stamp {
            changed: SystemTime::UNIX_EPOCH + seconds + nanos,
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
        }
    }

    /// This stamp, if a later change would get another: file times move in steps of a timer tick, 10 ms at most.
    fn settled(self) -> Option<Stamp> {
        const TICKS: Duration = Duration::from_millis(40);
        let old_enough = self.changed.elapsed().is_ok_and(|age| age > TICKS);
        old_enough.then_some(self)
    }
}

impl Fingerprint {
    fn of(object: &Object) -> Fingerprint {
        struct Sink(DefaultHasher);
        impl Write for Sink {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let mut sink = Sink(DefaultHasher::new());
        // `Debug` shows every field, and a hasher takes everything.
        let _ = write!(sink, "{object:?}");
        Fingerprint(sink.0.finish())
    }
}

/// The manifests directly in a directory. Hidden files are editors' and the kubelet's own.
fn manifests_in(directory: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let mut present = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(|extension| extension.to_str());
        if hidden || !matches!(extension, Some("yaml" | "yml" | "json")) {
            continue;
        }
        // Follows symbolic links. A file may be gone already: that is no error.
        if let Ok(metadata) = fs::metadata(&path)
            && metadata.is_file()
        {
            present.insert(path, Stamp::of(&metadata));
        }
    }
    Ok(present)
}
