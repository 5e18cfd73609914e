//! A dump: streams one after another, each with a verdict at its end.

use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::about::{self, About, Item};
use crate::child::Running;
use crate::fault::Fault;

/// The bytes of a stream.
pub trait Body: Read + Send {
    /// Called after its end of file: whether it is whole.
    ///
    /// # Errors
    /// It is not.
    fn finish(self: Box<Self>) -> Result<(), Fault>;
}

impl Body for Running {
    fn finish(mut self: Box<Self>) -> Result<(), Fault> {
        self.end()
    }
}

/// A stream whose program speaks a language of its own: what it says at its end is put into ours.
pub struct Explained {
    body: Box<dyn Body>,
    explain: Box<dyn Fn(Fault) -> Fault + Send>,
}

impl Explained {
    /// A stream, and what puts what is said at its end.
    pub fn boxed(
        body: Box<dyn Body>,
        explain: impl Fn(Fault) -> Fault + Send + 'static,
    ) -> Box<dyn Body> {
        Box::new(Self {
            body,
            explain: Box::new(explain),
        })
    }
}

impl Read for Explained {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

impl Body for Explained {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        let Explained { body, explain } = *self;
        body.finish().map_err(explain)
    }
}

impl Body for Cursor<Vec<u8>> {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

/// A part of a dump, as its kind gives it.
pub struct Part {
    /// Its name, beneath the label of the source.
    pub name: String,
    /// What it is.
    pub what: &'static str,
    /// Of what.
    pub of: Option<String>,
    /// What else its restore needs.
    pub details: Value,
    /// Its bytes.
    pub body: Box<dyn Body>,
}

/// What a kind of source gives.
pub trait Parts: Send {
    /// The next part; none at the end. Each part is read to its end before the next one is asked for.
    ///
    /// # Errors
    /// There is no next one, and it is not the end: nothing of the dump is to be used.
    fn next(&mut self) -> Result<Option<Part>, Fault>;
    /// After the end: what is known of the whole, without its streams.
    fn about(&mut self) -> About;
}

/// A stream.
pub struct Stream {
    /// Its whole name: `LABEL/NAME`.
    pub name: String,
    /// Its bytes.
    pub body: Box<dyn Body>,
}

/// A dump at work.
pub struct Dumping {
    label: String,
    parts: Option<Box<dyn Parts>>,
    items: Arc<Mutex<Vec<Item>>>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Dumping {
    /// Begins it.
    pub fn new(label: &str, parts: Box<dyn Parts>) -> Self {
        Dumping {
            label: label.to_owned(),
            parts: Some(parts),
            items: Arc::default(),
            notes: Arc::default(),
        }
    }

    /// Where what a person should know is put down at the end.
    pub fn notes(&self) -> Arc<Mutex<Vec<String>>> {
        self.notes.clone()
    }

    /// The next stream; none at the end.
    ///
    /// # Errors
    /// See [`Parts::next`].
    pub fn next_stream(&mut self) -> Result<Option<Stream>, Fault> {
        let Some(parts) = &mut self.parts else {
            return Ok(None);
        };
        if let Some(part) = parts.next()? {
            let name = format!("{}/{}", self.label, part.name);
            let item = Item {
                name: part.name,
                what: part.what.to_owned(),
                of: part.of,
                bytes: 0,
                details: part.details,
            };
            let body = Box::new(Measured {
                body: part.body,
                item,
                items: self.items.clone(),
            });
            return Ok(Some(Stream { name, body }));
        }
        let mut about = parts.about();
        self.parts = None;
        about.streams = std::mem::take(&mut lock(&self.items));
        lock(&self.notes).extend(about.notes.iter().cloned());
        Ok(Some(Stream {
            name: format!("{}/{}", self.label, about::NAME),
            body: Box::new(Cursor::new(about.to_json())),
        }))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Counts, and puts down what went through.
struct Measured {
    body: Box<dyn Body>,
    item: Item,
    items: Arc<Mutex<Vec<Item>>>,
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer)?;
        self.item.bytes += n as u64;
        Ok(n)
    }
}

impl Body for Measured {
    fn finish(self: Box<Self>) -> Result<(), Fault> {
        let Measured { body, item, items } = *self;
        body.finish()?;
        lock(&items).push(item);
        Ok(())
    }
}
