//! A file that is followed: by inotify, over links, and while it is not there.
//!
//! Input: a path. Output: that something may have changed, and what the file holds. Everything on the way to the file
//! is looked at: a ConfigMap changes by a link in the middle of the path, and editors put another file in its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::files;

/// As the kernel (MAXSYMLINKS).
const LINKS: usize = 40;
/// How often events are read at a time; each time, as many as fit into 4 KiB.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub(super) struct Follow {
    file: PathBuf,
    inotify: Inotify,
    /// What is watched: names in a directory, or (none) a file.
    watched: BTreeMap<i32, (WatchDescriptor, BTreeSet<OsString>)>,
}

impl Follow {
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let file = std::path::absolute(file)?;
        let mut follow = Self { file, inotify, watched: BTreeMap::new() };
        follow.arm()?;
        Ok(follow)
    }

    /// Watches what is on the way to the file now.
    pub(super) fn arm(&mut self) -> io::Result<()> {
        for (watch, _) in std::mem::take(&mut self.watched).into_values() {
            // One whose directory is gone is gone as well.
            let _ = self.inotify.rm_watch(watch);
        }
        let mut directories: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        for (directory, name) in way(&self.file) {
            directories.entry(directory).or_default().insert(name);
        }
        let names = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        for (directory, of) in directories {
            self.watch(&directory, names, of)?;
        }
        // Itself as well: of a single file that is mounted, the directory hears nothing.
        let itself =
            AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        self.watch(&self.file.clone(), itself, BTreeSet::new())
    }

    fn watch(&mut self, path: &Path, flags: AddWatchFlags, names: BTreeSet<OsString>) -> io::Result<()> {
        match self.inotify.add_watch(path, flags) {
            Ok(watch) => {
                let (_, known) = self.watched.entry(watch.as_raw()).or_insert((watch, BTreeSet::new()));
                known.extend(names);
                Ok(())
            }
            // Not there, or not to be looked into: what is above it will say when that changes.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether anything on the way to the file has changed.
    pub(super) fn drain(&mut self) -> io::Result<bool> {
        let mut changed = false;
        for _ in 0..AT_ONCE {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            changed |= events.iter().any(|event| {
                let lost = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                let about =
                    self.watched.get(&event.wd.as_raw()).is_some_and(|(_, names)| match &event.name {
                        Some(name) => names.contains(name),
                        None => !event.mask.contains(AddWatchFlags::IN_IGNORED),
                    });
                lost || about
            });
        }
        Ok(changed)
    }

    /// What the file holds now, if that can be rules.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        files::contents(&self.file)
    }
}

impl AsFd for Follow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Each name that is looked up on the way to a file, and in which directory: those that links lead to as well.
fn way(file: &Path) -> Vec<(PathBuf, OsString)> {
    let owned = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let mut left: VecDeque<OsString> = owned(file).into();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let mut found = Vec::new();
    while let Some(part) = left.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::Normal(name)) => {
                found.push((at.clone(), name.to_owned()));
                let next = at.join(name);
                match fs::read_link(&next) {
                    Ok(target) if links < LINKS => {
                        links += 1;
                        owned(&target).into_iter().rev().for_each(|part| left.push_front(part));
                    }
                    _ => at = next,
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_way_leads_over_links_and_never_round_in_circles() {
        let directory = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(directory.path()).unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/ruleset"), "").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/ruleset", root.join("ruleset")).unwrap();
        let last = |file: &str| {
            let all = way(&root.join(file));
            all.into_iter()
                .filter_map(|(at, name)| Some((at.strip_prefix(&root).ok()?.to_owned(), name)))
                .collect::<Vec<_>>()
        };
        let expected = [("", "ruleset"), ("", "..data"), ("", "..1"), ("..1", "ruleset")];
        assert_eq!(last("ruleset"), expected.map(|(at, name)| (PathBuf::from(at), OsString::from(name))));
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(last("a").len(), LINKS + 1);
    }
}
