//! A clock that goes faster than the system's, or ahead of it.

use std::time::{Duration, SystemTime};

use tower_api_key::clock::{Clock, Sleep, SystemClock};

/// The system's clock with another speed, from an instant on, and a lead.
pub(crate) struct OtherClock {
    begun: SystemTime,
    speed: u32,
    lead: Duration,
}

impl OtherClock {
    pub(crate) fn faster(speed: u32) -> Self {
        Self::new(speed, Duration::ZERO)
    }

    pub(crate) fn ahead(lead: Duration) -> Self {
        Self::new(1, lead)
    }

    fn new(speed: u32, lead: Duration) -> Self {
        Self {
            begun: SystemTime::now(),
            speed,
            lead,
        }
    }
}

impl Clock for OtherClock {
    fn now(&self) -> SystemTime {
        let since = self.begun.elapsed().unwrap_or_default();
        self.begun + since * self.speed + self.lead
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() * self.speed
    }

    fn sleep(&self, time: Duration) -> Sleep {
        SystemClock.sleep(time / self.speed)
    }
}
