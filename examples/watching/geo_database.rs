//! Countries from a database of `MaxMind`, such as `GeoLite2` Country.

use std::net::IpAddr;
use std::sync::Arc;

use maxminddb::{Reader, path};
use mmdb_writer::{Value, Writer};
use tower_api_key::anomaly::{Countries, Country};
use tower_api_key::http::RequestHead;

/// A database of networks and their countries, in memory.
///
/// A database grows old: read a new one each week, and exchange the reader.
#[derive(Clone)]
pub(crate) struct GeoDatabase(Arc<Reader<Vec<u8>>>);

impl GeoDatabase {
    /// Creates a database of two networks, in the format of `MaxMind`, since theirs may not be
    /// passed on. In production, write `Reader::open_readfile("GeoLite2-Country.mmdb")`.
    pub(crate) fn of_this_example() -> Result<Self, Box<dyn std::error::Error>> {
        let mut writer = Writer::new("Example-Country");
        for (network, code) in [("192.0.2.0/24", "DE"), ("198.51.100.0/24", "BR")] {
            let country = Value::map([("iso_code", Value::from(code))]);
            let value = Value::map([("country", country)]);
            writer.insert_value(network.parse::<ipnet::IpNet>()?, value)?;
        }
        let reader = Reader::from_source(writer.to_bytes()?)?;
        Ok(Self(Arc::new(reader)))
    }
}

impl Countries for GeoDatabase {
    fn country(&self, client: Option<IpAddr>, _request: RequestHead<'_>) -> Option<Country> {
        let found = self.0.lookup(client?).ok()?;
        let code: Option<&str> = found.decode_path(&path!["country", "iso_code"]).ok()?;
        Country::new(code?).ok()
    }
}
