//! What a verification found, gathered within bounds.

use super::*;

pub(super) struct Findings<'a> {
    pub(super) progress: &'a dyn Progress,
    pub(super) report: Report,
    /// Snapshots are walked again: the same damage is met again.
    pub(super) again: bool,
    /// By damage.
    pub(super) hits: Vec<BTreeSet<ObjectId>>,
    /// By damage.
    pub(super) files: Vec<BTreeSet<Vec<u8>>>,
}

impl Findings<'_> {
    pub(super) fn note(&mut self, text: String) {
        if self.report.notes.len() < NOTES_KEPT {
            self.progress.event(Event::Note(&text));
            self.report.notes.push(text);
        }
    }
    pub(super) fn damage(&mut self, object: String, what: String) -> u32 {
        let damages = &mut self.report.damages;
        if self.again {
            let same = |d: &Damage| d.object == object && d.what == what;
            if let Some(d) = damages.iter().position(same) {
                return d as u32;
            }
        }
        if damages.len() >= DAMAGES_KEPT {
            let last = damages.len() - 1;
            damages[last].what = "this and further objects are damaged".into();
            return last as u32;
        }
        self.progress
            .event(Event::Problem(&Problem::new(object.clone(), &what)));
        damages.push(Damage {
            object,
            what,
            ..Damage::default()
        });
        self.hits.push(BTreeSet::new());
        self.files.push(BTreeSet::new());
        damages.len() as u32 - 1
    }
    pub(super) fn object(&mut self, e: &ObjectError) -> u32 {
        match e {
            ObjectError::Store(s) => {
                self.damage(s.object.clone(), format!("it cannot be read: {}", s.cause))
            }
            ObjectError::Content { object, cause } => {
                self.damage(object.clone(), cause.to_string())
            }
        }
    }
    pub(super) fn hit(&mut self, damage: u32, snapshot: ObjectId) {
        self.hits[damage as usize].insert(snapshot);
    }
    pub(super) fn file(&mut self, damage: u32, path: &[u8]) {
        let files = &mut self.files[damage as usize];
        if files.len() < FILES_KEPT {
            files.insert(path.to_vec());
        } else if !files.contains(path) {
            self.report.damages[damage as usize].files_cut = true;
        }
    }
    pub(super) fn finish(mut self) -> Report {
        for ((d, hits), files) in self
            .report
            .damages
            .iter_mut()
            .zip(self.hits)
            .zip(self.files)
        {
            d.snapshots = hits.into_iter().collect();
            d.files = files.into_iter().collect();
        }
        self.report
    }
}

/// Notes kept.
pub(super) const NOTES_KEPT: usize = 1000;
