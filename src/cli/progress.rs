//! [`Progress`]: what is happening, for whoever waits longer than a second. On a terminal a line that
//! moves; elsewhere plain lines, few enough for a log; nothing with `--quiet`.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Context, report};

/// Work that ends within this time needs no words.
const PATIENCE: Duration = Duration::from_secs(1);
/// The least time between two plain lines about numbers.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells about one piece of work until it is dropped.
pub(super) struct Progress {
    began: Instant,
    display: Display,
}

enum Display {
    Silent,
    Lines { last: String, told: Option<Instant> },
    Bar(ProgressBar),
}

impl Progress {
    /// Begins to tell; says nothing for a second.
    pub fn new(context: &Context) -> Self {
        // Where somebody asked for logs, a moving line would tear them apart.
        let moving = io::stderr().is_terminal() && context.settings.log_level.is_none();
        let display = match (context.quiet, moving) {
            (true, _) => Display::Silent,
            (false, true) => Display::Bar(ProgressBar::no_length()),
            (false, false) => Display::Lines { last: String::new(), told: None },
        };
        Self { began: Instant::now(), display }
    }

    /// Whether somebody would be told of a number now: where looking it up costs, that may wait.
    pub fn is_due(&self) -> bool {
        self.began.elapsed() >= PATIENCE
            && match &self.display {
                Display::Silent => false,
                Display::Lines { told, .. } => told.is_none_or(|moment| moment.elapsed() >= PAUSE),
                Display::Bar(_) => true,
            }
    }

    /// What is being done now.
    pub fn step(&mut self, text: &str) {
        if self.began.elapsed() < PATIENCE {
            return;
        }
        match &mut self.display {
            Display::Silent => {}
            Display::Lines { last, .. } if last == text => {}
            Display::Lines { last, .. } => {
                report::warn(text);
                text.clone_into(last);
            }
            Display::Bar(bar) => {
                if bar.message().is_empty() {
                    bar.set_style(style("{spinner} {msg} ({elapsed})"));
                    bar.enable_steady_tick(Duration::from_millis(120));
                }
                bar.set_message(text.to_owned());
            }
        }
    }

    /// How much of something is done.
    pub fn count(&mut self, done: usize, of: usize, text: &str) {
        if !self.is_due() {
            return;
        }
        match &mut self.display {
            Display::Silent => {}
            Display::Lines { told, .. } => {
                report::warn(&format!("{done} of {of} {text}"));
                *told = Some(Instant::now());
            }
            Display::Bar(bar) => {
                if bar.length().is_none() {
                    bar.set_style(style("{bar:30} {pos} of {len} {msg} ({elapsed})"));
                    bar.set_length(of as u64);
                }
                bar.set_message(text.to_owned());
                bar.set_position(done as u64);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}
