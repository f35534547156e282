//! A shard's connections, each at the place that its id names: no hash table, of which a third
//! would be empty on average.

use crate::client::Connection;
use crate::port::ConnectionId;

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Connections {
    places: Vec<Option<(ConnectionId, Connection)>>,
    count: usize,
}

impl Connections {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, id: &ConnectionId) -> Option<&Connection> {
        let (found, connection) = self.places.get(id.place())?.as_ref()?;
        (found == id).then_some(connection)
    }

    pub(crate) fn get_mut(&mut self, id: &ConnectionId) -> Option<&mut Connection> {
        let (found, connection) = self.places.get_mut(id.place())?.as_mut()?;
        (found == id).then_some(connection)
    }

    pub(crate) fn insert(&mut self, id: ConnectionId, connection: Connection) {
        let place = id.place();
        if self.places.len() <= place {
            self.places.resize_with(place + 1, || None);
        }
        if let Some(entry) = self.places.get_mut(place) {
            assert!(entry.is_none(), "two connections at one place: {id:?}");
            *entry = Some((id, connection));
            self.count += 1;
        }
    }

    pub(crate) fn remove(&mut self, id: &ConnectionId) -> Option<Connection> {
        let entry = self.places.get_mut(id.place())?;
        let (_, connection) = entry.take_if(|(found, _)| found == id)?;
        self.count -= 1;
        Some(connection)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &ConnectionId> {
        self.places.iter().flatten().map(|(id, _)| id)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().flatten().map(|(_, one)| one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same place again: its bits above are another number.
    const AGAIN: u64 = 1 << 28;

    #[test]
    fn they_are_found_by_their_ids_until_they_go() {
        let mut all = Connections::default();
        for id in 0..100 {
            all.insert(ConnectionId(id), Connection::new(id));
        }
        for id in (0..100).step_by(3) {
            let gone = all.remove(&ConnectionId(id));
            assert_eq!(gone.map(|one| one.last_ms), Some(id));
            assert!(all.remove(&ConnectionId(id)).is_none());
        }
        all.insert(ConnectionId(AGAIN), Connection::new(200));
        assert!(all.get(&ConnectionId(0)).is_none(), "an earlier one there");
        assert!(all.remove(&ConnectionId(2 * AGAIN)).is_none());
        assert_eq!((all.len(), all.values().count()), (67, 67));
        let found = all.get(&ConnectionId(AGAIN));
        assert_eq!(found.map(|one| one.last_ms), Some(200));
        let other = all.get_mut(&ConnectionId(98));
        assert_eq!(other.map(|one| one.last_ms), Some(98));
        assert_eq!(all.keys().next(), Some(&ConnectionId(AGAIN)));
    }

    #[test]
    #[should_panic(expected = "two connections at one place")]
    fn one_place_has_one_connection() {
        let mut all = Connections::default();
        all.insert(ConnectionId(5), Connection::new(0));
        all.insert(ConnectionId(5 + AGAIN), Connection::new(0));
    }
}
