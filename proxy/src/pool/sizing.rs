//! How many connections to open now: pure arithmetic on the counts.

use super::reason::OpenReason;

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// Connections in any state.
    pub(super) total: u32,
    /// Of these, being opened.
    pub(super) connecting: u32,
    /// Of these, about to be free without anybody's doing: being opened or cleaned. Not those being probed: the doubt may be justified.
    pub(super) coming: u32,
    /// Of these, there to stay: neither closing nor to be closed at release.
    pub(super) lasting: u32,
    /// Sessions that wait.
    pub(super) waiters: u32,
    /// The most connections.
    pub(super) max: u32,
    /// Kept open even when idle.
    pub(super) min: u32,
    /// The most at a time that are being opened.
    pub(super) parallel: u32,
}

impl Demand {
    /// Why one more connection should be opened now, if one should.
    pub(super) fn open(self) -> Option<OpenReason> {
        if self.total >= self.max || self.connecting >= self.parallel {
            None
        } else if self.waiters > self.coming {
            Some(OpenReason::Demand)
        } else if self.lasting < self.min {
            Some(OpenReason::Minimum)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Demand = Demand { total: 0, connecting: 0, coming: 0, lasting: 0, waiters: 0, max: 10, min: 0, parallel: 4 };

    #[test]
    fn opens_for_waiters_that_nothing_comes_for() {
        assert_eq!(NONE.open(), None);
        assert_eq!(Demand { waiters: 1, ..NONE }.open(), Some(OpenReason::Demand));
        assert_eq!(Demand { waiters: 1, coming: 1, ..NONE }.open(), None);
        assert_eq!(Demand { waiters: 9, connecting: 4, coming: 4, ..NONE }.open(), None);
        assert_eq!(Demand { waiters: 9, total: 10, ..NONE }.open(), None);
    }

    #[test]
    fn keeps_the_minimum_warm() {
        assert_eq!(Demand { min: 2, lasting: 1, total: 1, ..NONE }.open(), Some(OpenReason::Minimum));
        assert_eq!(Demand { min: 2, lasting: 2, total: 2, ..NONE }.open(), None);
        assert_eq!(Demand { min: 2, lasting: 1, total: 10, ..NONE }.open(), None);
    }
}
