//! Streams of JPEG files: standard input, and the output of a program such as `rpicam-vid`.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::pipe::{Came, Pipe};
use crate::tables::with_tables;
use crate::{Frame, Next, Pace, Picture, Source, SourceError};

/// Standard input.
pub(crate) struct Stdin {
    pipe: Pipe<io::Stdin>,
    number: u64,
}

impl Default for Stdin {
    fn default() -> Self {
        Self { pipe: Pipe::new(io::stdin()), number: 0 }
    }
}

impl Source for Stdin {
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError> {
        Ok(match self.pipe.next(patience).map_err(SourceError::Input)? {
            Came::Jpeg(jpeg) => Next::Frame(live("stdin", &mut self.number, Picture::File(with_tables(jpeg)))),
            Came::Nothing => Next::Nothing,
            Came::End => Next::End,
        })
    }
}

/// A picture of a camera, or of what stands for one.
pub(crate) fn live(name: &str, number: &mut u64, picture: Picture) -> Frame {
    *number += 1;
    let name = format!("{name} {number}");
    Frame { number: *number, name, picture, pace: Pace::Passes, ahead: Duration::ZERO }
}

/// A program that runs as long as this lives.
pub(crate) struct Program {
    command: String,
    name: String,
    child: Child,
    pipe: Pipe<ChildStdout>,
    /// The last line that it complained.
    complaint: Arc<Mutex<String>>,
    listener: JoinHandle<()>,
    number: u64,
}

impl Program {
    /// Starts a command of the shell's, with all that it starts in a group of its own.
    pub(crate) fn start(command: &str) -> Result<Self, SourceError> {
        let failed = |found: String| SourceError::Program { command: command.to_owned(), found };
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(format!("does not start: {e}")))?;
        let (Some(output), Some(errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(failed("has no output".into()));
        };
        let complaint = Arc::new(Mutex::new(String::new()));
        let last = Arc::clone(&complaint);
        // Ends with the program.
        let listener = thread::spawn(move || listen(errors, &last));
        let program = command.split_whitespace().next().unwrap_or(command);
        let name = program.rsplit('/').next().unwrap_or(program).to_owned();
        let pipe = Pipe::new(output);
        Ok(Self { command: command.to_owned(), name, child, pipe, complaint, listener, number: 0 })
    }

    fn ended(&mut self) -> SourceError {
        // It has closed its output, and may take a moment to end.
        let status = wait(&mut self.child, GRACE).map_or("closed its output".to_owned(), |s| format!("ended with {s}"));
        // Its last words may still be on their way, and what it started may keep that way open.
        until(GRACE, || self.listener.is_finished().then_some(()));
        let complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = if complaint.is_empty() { status } else { format!("{status}: {complaint}") };
        SourceError::Program { command: self.command.clone(), found }
    }
}

impl Source for Program {
    fn next(&mut self, patience: Duration) -> Result<Next, SourceError> {
        match self.pipe.next(patience) {
            Ok(Came::Jpeg(jpeg)) => {
                Ok(Next::Frame(live(&self.name, &mut self.number, Picture::File(with_tables(jpeg)))))
            }
            Ok(Came::Nothing) => Ok(Next::Nothing),
            Ok(Came::End) => Err(self.ended()),
            Err(e) => {
                Err(SourceError::Program { command: self.command.clone(), found: format!("cannot be read: {e}") })
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        for signal in [Signal::TERM, Signal::KILL] {
            // What the shell started may outlive it.
            if let Some(group) = group {
                let _ = kill_process_group(group, signal);
            }
            wait(&mut self.child, GRACE);
        }
    }
}

/// How long a program may take to end.
const GRACE: Duration = Duration::from_millis(500);

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    until(patience, || child.try_wait().ok().flatten())
}

/// Asks until there is something, or time is over.
fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        let found = ask();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Keeps the last line of what a program complains.
fn listen(errors: impl Read, last: &Mutex<String>) {
    let mut errors = BufReader::new(errors);
    let mut line = vec![];
    // A line without an end is taken in parts.
    while matches!(errors.by_ref().take(LINE).read_until(b'\n', &mut line), Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
        if !text.is_empty() {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = text;
        }
        line.clear();
    }
}

/// Longest line of a complaint.
const LINE: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitter::tests::jpeg;

    fn until_error(program: &mut Program) -> (Vec<Frame>, String) {
        let mut frames = vec![];
        loop {
            match program.next(Duration::from_secs(10)) {
                Ok(Next::Frame(frame)) => frames.push(frame),
                Ok(other) => panic!("{other:?}"),
                Err(e) => return (frames, e.to_string()),
            }
        }
    }

    #[test]
    fn a_program_gives_its_pictures_and_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stream.mjpeg");
        let files = [jpeg(1, 100_000), jpeg(2, 10)];
        std::fs::write(&path, files.concat()).unwrap();
        let command = format!("cat {}; echo warming up >&2; echo no cameras available >&2; exit 3", path.display());
        let (frames, error) = until_error(&mut Program::start(&command).unwrap());
        assert_eq!(
            frames.iter().map(|f| &f.picture).collect::<Vec<_>>(),
            files.map(with_tables).map(Picture::File).each_ref()
        );
        assert_eq!((frames[1].name.as_str(), frames[1].pace), ("cat 2", Pace::Passes));
        assert!(error.contains("exit status: 3") && error.contains("no cameras available"), "{error}");
    }

    #[test]
    fn what_does_not_start_is_named() {
        let (_, error) = until_error(&mut Program::start("graft-no-such-program").unwrap());
        assert!(error.contains("127") && error.contains("not found"), "{error}");
    }

    #[test]
    fn a_silent_program_is_waited_for_and_ends_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let command = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait; wait", pid.display());
        let mut program = Program::start(&command).unwrap();
        assert_eq!(program.next(Duration::from_millis(200)).unwrap(), Next::Nothing);
        let slept: u32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let stat = format!("/proc/{slept}/stat");
        assert!(std::fs::read_to_string(&stat).unwrap().contains("sleep"));
        drop(program);
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z") || !s.contains("sleep"));
        assert!((0..100).any(|_| {
            thread::sleep(Duration::from_millis(10));
            is_gone()
        }));
    }
}
