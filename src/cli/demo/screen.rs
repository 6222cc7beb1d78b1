//! What the demo shows: on a terminal a table that lives, elsewhere plain lines.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::script::PODS;
use super::traffic::{Promise, STREAMS, Tally};

const BAR: usize = 30;

pub struct Screen {
    style: Style,
    /// How many lines the last frame had.
    lines: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Live,
    Plain,
}

impl Screen {
    pub fn of_stdout() -> Self {
        let style = if io::stdout().is_terminal() { Style::Live } else { Style::Plain };
        Screen { style, lines: 0 }
    }

    /// Announces a scene.
    pub fn scene(&self, elapsed: Duration, title: &str) -> io::Result<()> {
        match self.style {
            Style::Live => Ok(()),
            Style::Plain => writeln!(io::stdout(), "{:4.1} s  {title}", elapsed.as_secs_f32()),
        }
    }

    /// Shows how far it is, over the frame before.
    pub fn frame(
        &mut self,
        elapsed: Duration,
        total: Duration,
        title: &str,
        tallies: &[Tally],
    ) -> io::Result<()> {
        if self.style == Style::Plain {
            return Ok(());
        }
        let frame = format!("{}  {title}\n\n{}", bar(elapsed, total), table(tallies));
        let mut out = io::stdout().lock();
        self.rewind(&mut out)?;
        for line in frame.lines() {
            writeln!(out, "\x1b[2K{line}")?;
        }
        self.lines = frame.lines().count();
        out.flush()
    }

    /// The final table, instead of the last frame.
    pub fn finish(&mut self, tallies: &[Tally]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.rewind(&mut out)?;
        write!(out, "{}\n{}", table(tallies), summary(tallies))
    }

    fn rewind(&mut self, out: &mut impl Write) -> io::Result<()> {
        match std::mem::take(&mut self.lines) {
            0 => Ok(()),
            lines => write!(out, "\x1b[{lines}A\x1b[J"),
        }
    }
}

/// `[██████░░░░░░]  6 s of 12 s`
fn bar(elapsed: Duration, total: Duration) -> String {
    let share = (elapsed.as_secs_f64() / total.as_secs_f64().max(f64::EPSILON)).min(1.0);
    let full = (share * BAR as f64).round() as usize;
    let (full, empty) = ("█".repeat(full), "░".repeat(BAR - full));
    format!("[{full}{empty}] {:2} s of {} s", elapsed.as_secs(), total.as_secs())
}

/// Who answered whom how often.
fn table(tallies: &[Tally]) -> String {
    let heads = ["Service", "protocol", "client"].map(str::to_owned).into_iter();
    let heads: Vec<String> =
        heads.chain(PODS.map(str::to_owned)).chain(["refused", "failed"].map(str::to_owned)).collect();
    let mut rows = vec![heads];
    for (stream, tally) in STREAMS.iter().zip(tallies) {
        let fixed = [stream.title, stream.protocol.lowercase(), stream.from].map(str::to_owned);
        let answers = PODS.map(|pod| count(tally.answers.get(pod).copied().unwrap_or_default()));
        let ends = [count(tally.refusals), count(tally.failures)];
        rows.push(fixed.into_iter().chain(answers).chain(ends).collect());
    }
    align(&rows)
}

fn count(number: usize) -> String {
    if number == 0 { "-".to_owned() } else { number.to_string() }
}

/// Text to the left, numbers to the right.
fn align(rows: &[Vec<String>]) -> String {
    const TEXTS: usize = 3;
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0..TEXTS => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// How many requests went wrong, and how the last of each client did.
fn summary(tallies: &[Tally]) -> String {
    let requests: usize = tallies.iter().map(Tally::requests).sum();
    let failures: usize = tallies.iter().map(|tally| tally.failures).sum();
    let mut text = match failures {
        0 => format!("{requests} requests, none failed.\n"),
        _ => format!("{requests} requests, {failures} failed.\n"),
    };
    for (stream, tally) in STREAMS.iter().zip(tallies) {
        if let Some(failure) = &tally.last_failure {
            text += &format!("  {} from {}: {failure}\n", stream.title, stream.from);
        }
        if tally.requests() == 0 {
            text += &format!("  {} from {}: no request was made\n", stream.title, stream.from);
        }
    }
    text
}

/// Whether everything went as promised, and something went at all.
pub fn is_success(tallies: &[Tally]) -> bool {
    STREAMS.iter().zip(tallies).all(|(stream, tally)| {
        let kept = match stream.promise {
            Promise::Refusal => tally.refusals,
            _ => tally.answers.values().sum(),
        };
        tally.failures == 0 && kept > 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies() -> Vec<Tally> {
        let answers = [("here/5".to_owned(), 120), ("elsewhere/5".to_owned(), 7)].into();
        let good = Tally { answers, ..Tally::default() };
        let refused = Tally { refusals: 9, ..Tally::default() };
        STREAMS
            .iter()
            .map(|stream| if stream.promise == Promise::Refusal { refused.clone() } else { good.clone() })
            .collect()
    }

    #[test]
    fn the_table_has_a_line_for_each_client() {
        let table = table(&tallies());
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), STREAMS.len() + 1);
        assert_eq!(
            lines[..2],
            [
                "Service              protocol  client         here/5  here/6  elsewhere/5  elsewhere/6  refused  failed",
                "web, ClusterIP       tcp       10.244.1.9        120       -            7            -        -       -",
            ]
        );
    }

    #[test]
    fn one_failure_spoils_it_and_so_does_no_traffic() {
        let mut tallies = tallies();
        assert!(is_success(&tallies));
        assert_eq!(summary(&tallies), "771 requests, none failed.\n");
        tallies[0].failures = 1;
        tallies[0].last_failure = Some("refused".into());
        assert!(!is_success(&tallies));
        assert_eq!(summary(&tallies), "772 requests, 1 failed.\n  web, ClusterIP from 10.244.1.9: refused\n");
        tallies[0] = Tally::default();
        assert!(!is_success(&tallies));
    }

    #[test]
    fn the_bar_fills() {
        let at = |seconds| bar(Duration::from_secs(seconds), Duration::from_secs(12));
        assert!(at(0).starts_with("[░░░"), "{}", at(0));
        assert_eq!(at(6).matches('█').count(), BAR / 2);
        assert!(at(20).starts_with(&format!("[{}]", "█".repeat(BAR))));
    }
}
