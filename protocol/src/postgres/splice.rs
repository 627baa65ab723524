//! Builds what is sent from what was read: passes ranges of the input through, puts messages of our own between them.
//!
//! As long as the passed ranges touch and nothing is put, nothing is copied and [`Splice::finish`] is a slice of the input itself. That is the
//! whole data path of a plain query.

/// One output in the making.
#[derive(Debug)]
pub struct Splice<'a> {
    input: &'a [u8],
    /// The run of input that is passed but not yet copied: empty, or the only thing in the output so far, or behind all of `built`.
    start: usize,
    end: usize,
    built: &'a mut Vec<u8>,
}

impl<'a> Splice<'a> {
    /// An empty output over this input. `scratch` is cleared and used only where the output is not one range of the input.
    pub fn new(input: &'a [u8], scratch: &'a mut Vec<u8>) -> Self {
        scratch.clear();
        Self { input, start: 0, end: 0, built: scratch }
    }

    /// Passes `length` bytes of the input from `at` on.
    pub fn pass(&mut self, at: usize, length: usize) {
        if self.end != at {
            self.settle();
            self.start = at;
        }
        self.end = at + length;
    }

    /// Where our own bytes go: behind everything passed so far.
    pub fn put(&mut self) -> &mut Vec<u8> {
        self.settle();
        self.built
    }

    /// Copies the pending run, so that something can follow it.
    fn settle(&mut self) {
        self.built.extend_from_slice(&self.input[self.start..self.end]);
        self.start = self.end;
    }

    /// Whether nothing was passed or put.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.built.is_empty() && self.start == self.end
    }

    /// The output.
    #[must_use]
    pub fn finish(mut self) -> &'a [u8] {
        if self.built.is_empty() {
            return &self.input[self.start..self.end];
        }
        self.settle();
        self.built
    }
}

#[cfg(test)]
mod tests {
    use super::Splice;

    #[test]
    fn touching_ranges_are_not_copied() {
        let input = b"hello world".to_vec();
        let mut scratch = Vec::new();
        let mut splice = Splice::new(&input, &mut scratch);
        splice.pass(0, 5);
        splice.pass(5, 6);
        let output = splice.finish();
        assert_eq!(output, b"hello world");
        assert!(std::ptr::eq(output.as_ptr(), input.as_ptr()));
    }

    #[test]
    fn a_run_may_start_anywhere() {
        let mut scratch = Vec::new();
        let mut splice = Splice::new(b"hello world", &mut scratch);
        splice.pass(6, 5);
        assert_eq!(splice.finish(), b"world");
    }

    #[test]
    fn gaps_and_insertions_are_kept_in_order() {
        let mut scratch = vec![9, 9];
        let mut splice = Splice::new(b"abcdef", &mut scratch);
        assert!(splice.is_empty());
        splice.pass(0, 2);
        splice.put().extend(b"--");
        splice.pass(2, 1);
        splice.pass(4, 2);
        assert!(!splice.is_empty());
        assert_eq!(splice.finish(), b"ab--cef");
    }

    #[test]
    fn an_insertion_alone_is_the_output() {
        let mut scratch = Vec::new();
        let mut splice = Splice::new(b"abc", &mut scratch);
        splice.put().extend(b"Z");
        assert_eq!(splice.finish(), b"Z");
    }

    #[test]
    fn a_zero_length_pass_changes_nothing() {
        let mut scratch = Vec::new();
        let mut splice = Splice::new(b"abc", &mut scratch);
        splice.pass(0, 1);
        splice.pass(1, 0);
        assert_eq!(splice.finish(), b"a");
    }
}
