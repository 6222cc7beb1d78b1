//! The real door: the programs of the iptables package.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;

use super::flavour::{Flavour, Variant};
use super::stamp::{self, Stamp, StampReader};
use super::{Door, Error, Input, Table, nft};
use crate::model::Family;

/// As much of a program's complaints as is kept: it may complain about every line of its input.
const STDERR_KEPT: u64 = 4096;

/// iptables-save and iptables-restore of one family and one flavour.
#[derive(Debug)]
pub struct Programs {
    family: Family,
    variant: Variant,
    stamps: StampReader,
}

impl Programs {
    /// Finds the flavour that this machine uses, unless told.
    pub fn find(family: Family, flavour: Option<Flavour>) -> Result<Self, Error> {
        let flavour = match flavour {
            Some(flavour) => flavour,
            None => Flavour::detect()?,
        };
        let variant = Variant::find(family, flavour)?;
        Ok(Programs { family, variant, stamps: StampReader::new(family, flavour) })
    }

    /// The flavour that is asked for, else one for which the kernel has what it takes: that the programs are there says
    /// nothing about it.
    pub fn usable(family: Family, flavour: Option<Flavour>) -> Result<Self, Error> {
        let able = || Programs::installed(family).into_iter().find(|programs| programs.probe().is_ok());
        match flavour {
            Some(_) => Programs::find(family, flavour),
            None => able().map_or_else(|| Programs::find(family, None), Ok),
        }
    }

    /// One for each flavour that is installed: for removing rules wherever they are.
    pub fn installed(family: Family) -> Vec<Programs> {
        [Flavour::Legacy, Flavour::Nft]
            .into_iter()
            .filter_map(|flavour| Programs::find(family, Some(flavour)).ok())
            .collect()
    }

    /// Whether the kernel has what they need, asked as kube-proxy asks. That the lock is held says nothing about it.
    pub fn probe(&self) -> Result<(), Error> {
        let arguments = ["-w", "5", "-t", "nat", "-S", "POSTROUTING"];
        match Running::start(self.variant.iptables, &arguments).and_then(Running::end) {
            Err(error) if !error.is_transient() => Err(error),
            _ => Ok(()),
        }
    }

    pub fn flavour(&self) -> Flavour {
        self.variant.flavour
    }

    /// Whether `MASQUERADE --random-fully` exists: iptables 1.6.2. Without it parallel DNS queries can clash on a port.
    pub fn has_random_fully(&self) -> bool {
        self.variant.version() >= Some((1, 6, 2))
    }
}

impl Door for Programs {
    fn family(&self) -> Family {
        self.family
    }

    fn save(&mut self, table: Table, line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        if !self.stamps.exists(table) {
            return Ok(());
        }
        let table = table.to_string();
        read_lines(Running::start(self.variant.save, &["-t", &table])?, line)
    }

    fn restore(&mut self, input: &dyn Input) -> Result<(), Error> {
        let mut running = Running::start(self.variant.restore, &["-w", "5", "--noflush", "--counters"])?;
        let mut written = Ok(());
        if let Some(stdin) = running.child.stdin.take() {
            let mut stdin = BufWriter::with_capacity(1 << 16, stdin);
            written = write!(stdin, "{input}").and_then(|()| stdin.flush());
        }
        // A program that refuses a line closes its input early: its own words say more than our broken pipe.
        running.end()?;
        stamp::note_own_commits(input.commits());
        written.map_err(|source| Error::Run { program: self.variant.restore, source })
    }

    fn stamp(&mut self) -> Result<Stamp, Error> {
        self.stamps.read()
    }

    fn fingerprint(&mut self, chains: &dyn Fn(&str) -> bool) -> Result<Option<u64>, Error> {
        match self.variant.flavour {
            Flavour::Legacy => Ok(None),
            Flavour::Nft => nft::chains(self.family, chains)
                .map_err(|source| Error::Stamp { what: "NFT_MSG_GETCHAIN", source }),
        }
    }
}

fn read_lines(mut running: Running, line: &mut dyn FnMut(&str)) -> Result<(), Error> {
    let mut read = Ok(());
    if let Some(stdout) = running.child.stdout.take() {
        let mut stdout = BufReader::with_capacity(1 << 16, stdout);
        let mut buffer = String::new();
        read = loop {
            buffer.clear();
            match stdout.read_line(&mut buffer) {
                Ok(0) => break Ok(()),
                Ok(_) => line(buffer.trim_end_matches('\n')),
                Err(error) => break Err(error),
            }
        };
    }
    let program = running.program;
    running.end()?;
    read.map_err(|source| Error::Run { program, source })
}

/// A program under way, with a thread that keeps its standard error from filling up.
struct Running {
    program: &'static str,
    child: Child,
    stderr: thread::JoinHandle<String>,
}

impl Running {
    fn start(program: &'static str, arguments: &[&str]) -> Result<Self, Error> {
        let failed = |source| Error::Run { program, source };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let Some(stderr) = child.stderr.take() else {
            return Err(failed(io::Error::other("no standard error")));
        };
        let stderr = thread::Builder::new()
            .name("iptables-stderr".into())
            .spawn(move || drain(stderr))
            .map_err(failed)?;
        Ok(Running { program, child, stderr })
    }

    fn end(mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        let status = self.child.wait().map_err(|source| Error::Run { program: self.program, source })?;
        let stderr = self.stderr.join().unwrap_or_default();
        if status.success() { Ok(()) } else { Err(failure(self.program, status, &stderr)) }
    }
}

fn drain(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    // What goes wrong here is not worth more than a shorter message.
    let _ = stderr.by_ref().take(STDERR_KEPT).read_to_end(&mut kept);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}

fn failure(program: &'static str, status: ExitStatus, stderr: &str) -> Error {
    let line = stderr.lines().find_map(line_number);
    let message = stderr
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .unwrap_or("it said nothing")
        .to_owned();
    Error::Failed { program, status, line, message }
}

/// iptables-restore says `Error occurred at line: 47` where it cannot parse, `line 47 failed` where the kernel refuses.
fn line_number(message: &str) -> Option<usize> {
    let after = message.split_once("line: ").or_else(|| message.split_once("line "))?.1;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn y5_a_held_lock_is_told_from_a_refused_line() {
        let fails =
            |code: i32, words| failure("iptables-legacy-restore", ExitStatus::from_raw(code << 8), words);
        for words in [
            "Can't lock /run/xtables.lock: Resource temporarily unavailable\n",
            "Another app is currently holding the xtables lock. Stopped waiting after 5s.\n",
            "Fatal: can't open lock file /run/xtables.lock: Permission denied\n",
        ] {
            assert!(fails(4, words).is_transient(), "{words}");
        }
        assert!(!fails(1, "iptables-restore: line 9 failed\n").is_transient());
    }

    #[test]
    fn the_line_is_found_in_what_each_flavour_says() {
        assert_eq!(line_number("Error occurred at line: 47"), Some(47));
        assert_eq!(line_number("iptables-restore: line 9 failed"), Some(9));
        assert_eq!(line_number("iptables-nft-restore v1.8.9 (nf_tables): "), None);
        assert_eq!(
            line_number("line 5: RULE_APPEND failed (No such file or directory): rule in chain A"),
            Some(5)
        );
    }
}
