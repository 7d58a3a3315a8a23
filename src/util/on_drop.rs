//! A call that is made when its guard is dropped.

/// Calls a function when it is dropped: also when the future that holds it is, or panics.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
