//! Lines for stdout that are many: written as they come, gathered into pieces, never kept.

use std::io::{BufWriter, Stdout, Write};

/// Lines on their way to stdout. What is gathered is written when it is dropped.
pub struct Stream {
    out: BufWriter<Stdout>,
}

impl Default for Stream {
    fn default() -> Self {
        Self { out: BufWriter::with_capacity(64 * 1024, std::io::stdout()) }
    }
}

impl Stream {
    /// Text without a newline of its own.
    pub fn put(&mut self, text: std::fmt::Arguments<'_>) {
        let written = self.out.write_fmt(text);
        super::end_unless_written(written);
    }

    pub fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.put(format_args!("{text}\n"));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let written = self.out.flush();
        super::end_unless_written(written);
    }
}
