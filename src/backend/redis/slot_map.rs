//! Which server of a cluster has which slots, as one of them tells it.

use redis::Value;

use super::slots::SLOTS;

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The master of each slot.
#[derive(Debug)]
pub(super) struct SlotMap {
    pub(super) masters: Vec<Address>,
    /// For each slot, the place of its master, or [`NOBODY`].
    pub(super) owners: Vec<u16>,
    /// The servers that are no masters.
    pub(super) replicas: Vec<Address>,
}

/// The owner of a slot that no server has.
pub(super) const NOBODY: u16 = u16::MAX;

impl Address {
    /// Reads an address, such as `10.0.0.1:6379`. One without a host is at the host that was asked.
    pub(super) fn read(text: &str, asked: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host {
            "" => asked,
            "?" => return None,
            host => host.trim_start_matches('[').trim_end_matches(']'),
        };
        Some(Self {
            host: host.to_owned(),
            port: port.parse().ok()?,
        })
    }
}

impl SlotMap {
    /// Reads the answer to `CLUSTER SLOTS` of a server at a host. `None` if it tells of no slot.
    pub(super) fn read(answer: &Value, asked: &str) -> Option<Self> {
        let Value::Array(ranges) = answer else {
            return None;
        };
        let mut map = Self {
            masters: Vec::new(),
            owners: vec![NOBODY; usize::from(SLOTS)],
            replicas: Vec::new(),
        };
        for range in ranges {
            map.add(range, asked)?;
        }
        (!map.masters.is_empty()).then_some(map)
    }

    /// Adds a range of slots: the first one, the last one, the master, and its replicas.
    fn add(&mut self, range: &Value, asked: &str) -> Option<()> {
        let Value::Array(parts) = range else {
            return None;
        };
        let [first, last, master, replicas @ ..] = &parts[..] else {
            return None;
        };
        let slot = |value: &Value| match value {
            Value::Int(slot) => usize::try_from(*slot).ok(),
            _ => None,
        };
        let slots = slot(first)?..=slot(last)?;
        let replicas = replicas.iter().filter_map(|it| server(it, asked));
        for replica in replicas {
            if !self.replicas.contains(&replica) {
                self.replicas.push(replica);
            }
        }
        // A server whose address is not known cannot be asked.
        let Some(master) = server(master, asked) else {
            return Some(());
        };
        let known = self.masters.iter().position(|it| *it == master);
        let at = known.unwrap_or(self.masters.len());
        if known.is_none() {
            self.masters.push(master);
        }
        self.owners.get_mut(slots)?.fill(u16::try_from(at).ok()?);
        Some(())
    }
}

/// Reads a server: its host, its port, and what is of no interest, unless the host is not known.
fn server(value: &Value, asked: &str) -> Option<Address> {
    let Value::Array(parts) = value else {
        return None;
    };
    let [host, Value::Int(port), rest @ ..] = &parts[..] else {
        return None;
    };
    let host = match host {
        Value::Nil => asked.to_owned(),
        host => match text(host)? {
            "" => asked.to_owned(),
            "?" => rest.iter().find_map(ip)?,
            host => host.to_owned(),
        },
    };
    Some(Address {
        host,
        port: u16::try_from(*port).ok()?,
    })
}

/// Returns the address that a server without a name has among its other names.
fn ip(names: &Value) -> Option<String> {
    let is_ip = |name: &Value| text(name) == Some("ip");
    let ip = match names {
        Value::Array(names) => {
            let at = names.iter().position(is_ip)?;
            names.get(at + 1)
        }
        Value::Map(names) => {
            let ip = names.iter().find(|(name, _)| is_ip(name));
            ip.map(|(_, ip)| ip)
        }
        _ => None,
    };
    text(ip?).filter(|it| !it.is_empty()).map(str::to_owned)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(text) => str::from_utf8(text).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn server(host: Value, port: i64, names: &[&str]) -> Value {
        let names = names.iter().map(|name| text(name)).collect();
        let id = text("9c9a0a8");
        Value::Array(vec![host, Value::Int(port), id, Value::Array(names)])
    }

    fn range(first: i64, last: i64, servers: Vec<Value>) -> Value {
        let mut parts = vec![Value::Int(first), Value::Int(last)];
        parts.extend(servers);
        Value::Array(parts)
    }

    fn at(host: &str, port: u16) -> Address {
        let host = host.to_owned();
        Address { host, port }
    }

    #[test]
    fn each_slot_has_the_master_that_is_told() {
        let answer = Value::Array(vec![
            range(
                0,
                99,
                vec![server(text("a"), 1, &[]), server(text("r"), 2, &[])],
            ),
            range(100, 100, vec![server(text(""), 3, &[])]),
            range(
                102,
                16_383,
                vec![server(text("a"), 1, &[]), server(text("r"), 2, &[])],
            ),
        ]);
        let map = SlotMap::read(&answer, "asked").unwrap();
        assert_eq!(map.masters, [at("a", 1), at("asked", 3)]);
        assert_eq!(map.replicas, [at("r", 2)]);
        let owners = [0, 99, 100, 101, 102, 16_383].map(|slot: usize| map.owners[slot]);
        assert_eq!(owners, [0, 0, 1, NOBODY, 0, 0]);
    }

    #[test]
    fn a_server_without_a_name_is_at_its_address_or_at_the_host_that_was_asked() {
        let host = |host: Value, names: &[&str]| {
            let answer = Value::Array(vec![range(0, 1, vec![server(host, 1, names)])]);
            let map = SlotMap::read(&answer, "asked");
            map.map(|map| map.masters[0].host.clone())
        };
        assert_eq!(host(Value::Nil, &[]).unwrap(), "asked");
        assert_eq!(host(text("?"), &["ip", "10.0.0.1"]).unwrap(), "10.0.0.1");
        assert_eq!(host(text("?"), &[]), None);
    }

    #[test]
    fn what_is_no_answer_tells_nothing() {
        let none = Value::Array(Vec::new());
        let beyond = range(0, 16_384, vec![server(text("a"), 1, &[])]);
        for answer in [
            none,
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![beyond]),
            Value::Array(vec![range(0, 1, vec![Value::Nil])]),
            Value::Array(vec![range(-1, 1, vec![server(text("a"), 1, &[])])]),
        ] {
            assert!(SlotMap::read(&answer, "asked").is_none(), "{answer:?}");
        }
    }

    #[test]
    fn a_redirection_names_a_server() {
        assert_eq!(
            Address::read("10.0.0.1:7", "asked"),
            Some(at("10.0.0.1", 7))
        );
        assert_eq!(Address::read(":7", "asked"), Some(at("asked", 7)));
        assert_eq!(Address::read("::1:7", "asked"), Some(at("::1", 7)));
        assert_eq!(Address::read("[::1]:7", "asked"), Some(at("::1", 7)));
        for text in ["", "host", "host:", "host:65536", "?:7"] {
            assert_eq!(Address::read(text, "asked"), None);
        }
    }
}
