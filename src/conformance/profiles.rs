//! The suite for stores that keep profiles.

use std::time::UNIX_EPOCH;

use crate::conformance::keeps::{Keeps, Part};
use crate::conformance::promise::Promise;
use crate::conformance::records::{Digests, named};
use crate::key::digest::KeyId;
use crate::store::{
    Action, Actor, Change, KeptProfile, ManagedKeyStore, StoreError, StoreErrorKind,
};
use crate::util::join_all::join_all;

const ANSWERS: Promise = Promise("a live store answers");
const REFUSED: Promise = Promise("what is not kept is refused");
const FOUND: Promise = Promise("a profile is found as it was saved");
const VERSIONS: Promise = Promise("a profile of another version than the next is not saved");
const EACH: Promise = Promise("each profile of a call is saved or not by itself");
const ONE_SAVES: Promise = Promise("of saves of one version at once, exactly one is carried out");
const ALONE: Promise = Promise("a profile changes nothing but itself");
const DELETED: Promise = Promise("a profile is deleted with its key");

/// The number of concurrent writers of the same profiles.
const RIVALS: usize = 12;

pub(super) async fn suite<S: ManagedKeyStore>(store: &S, keeps: &Keeps) {
    let mut digests = Digests::new();
    let id = digests.id();
    if !keeps.keeps_part(Part::Profiles) {
        let refused = store.profiles(&[id]).await.map_err(|error| error.kind());
        REFUSED.holds(
            refused == Err(StoreErrorKind::Refused),
            format_args!("{refused:?}"),
        );
        let refused = store.save_profiles(&[KeptProfile::new(id, 1, [1])]).await;
        let refused = refused.map_err(|error| error.kind());
        REFUSED.holds(
            refused == Err(StoreErrorKind::Refused),
            format_args!("{refused:?}"),
        );
        return;
    }
    let suite = ProfileSuite { store };
    suite.profiles_come_back(&mut digests).await;
    suite.versions_are_kept(&mut digests).await;
    suite.one_of_many_saves(&mut digests).await;
    if keeps.keeps_part(Part::Deletions) {
        suite.a_profile_goes_with_its_key(&mut digests).await;
    }
}

struct ProfileSuite<'s, S> {
    store: &'s S,
}

impl<S: ManagedKeyStore> ProfileSuite<'_, S> {
    async fn save(&self, profiles: &[KeptProfile]) -> Vec<KeyId> {
        let saved = self.store.save_profiles(profiles).await;
        let mut saved = ANSWERS.answer(saved, "save_profiles");
        saved.sort_unstable();
        saved
    }

    async fn read(&self, keys: &[KeyId]) -> Vec<KeptProfile> {
        let read = ANSWERS.answer(self.store.profiles(keys).await, "profiles");
        let mut read = read;
        read.sort_unstable_by_key(|profile| profile.key);
        read
    }

    async fn profiles_come_back(&self, digests: &mut Digests) {
        let mut ids = [(); 4].map(|()| digests.id());
        ids.sort_unstable();
        let any: Vec<u8> = (0..=u8::MAX)
            .cycle()
            .take(KeptProfile::MOST_BYTES)
            .collect();
        let profiles = [
            KeptProfile::new(ids[0], 1, Vec::new()),
            KeptProfile::new(ids[1], 1, any),
            KeptProfile::new(ids[2], 1, [0]),
        ];
        let none = self.read(&ids).await;
        FOUND.holds(
            none.is_empty(),
            format_args!("{none:?} before any was saved"),
        );
        let none = self.read(&[]).await;
        FOUND.holds(none.is_empty(), format_args!("{none:?} for no key"));
        let saved = self.save(&profiles).await;
        FOUND.holds(saved == ids[..3], format_args!("saved {saved:?}"));
        let read = self.read(&ids).await;
        FOUND.holds(read == profiles, format_args!("{read:?}"));
        let some = self.read(&ids[1..2]).await;
        FOUND.holds(some == profiles[1..2], format_args!("{some:?}"));
        let saved = self.save(&[]).await;
        FOUND.holds(saved.is_empty(), format_args!("{saved:?} of none"));
    }

    async fn versions_are_kept(&self, digests: &mut Digests) {
        let mut ids = [(); 3].map(|()| digests.id());
        ids.sort_unstable();
        let [kept, other, new] = ids;
        let first = [
            KeptProfile::new(kept, 1, *b"a"),
            KeptProfile::new(other, 1, *b"b"),
        ];
        self.save(&first).await;
        for version in [0, 1, 3, u64::MAX >> 1] {
            let saved = self.save(&[KeptProfile::new(kept, version, *b"x")]).await;
            VERSIONS.holds(
                saved.is_empty(),
                format_args!("version {version} after version 1"),
            );
        }
        for version in [0, 2, 7] {
            let saved = self.save(&[KeptProfile::new(new, version, *b"x")]).await;
            VERSIONS.holds(
                saved.is_empty(),
                format_args!("version {version} where none is kept"),
            );
        }
        let read = self.read(&ids).await;
        VERSIONS.holds(read == first, format_args!("{read:?}"));
        let mixed = [
            KeptProfile::new(new, 1, *b"c"),
            KeptProfile::new(kept, 3, *b"x"),
            KeptProfile::new(other, 2, *b"bb"),
        ];
        let saved = self.save(&mixed).await;
        EACH.holds(saved == [other, new], format_args!("saved {saved:?}"));
        let expected = [first[0].clone(), mixed[2].clone(), mixed[0].clone()];
        let read = self.read(&ids).await;
        EACH.holds(read == expected, format_args!("{read:?}"));
    }

    async fn one_of_many_saves(&self, digests: &mut Digests) {
        let ids: Vec<KeyId> = (0..8).map(|_| digests.id()).collect();
        for version in 1..=3_u64 {
            let rivals = (0..RIVALS).map(|rival| {
                let of_rival = u8::try_from(rival).unwrap_or(u8::MAX);
                let profile = |id: &KeyId| KeptProfile::new(*id, version, [of_rival]);
                let mut profiles: Vec<_> = ids.iter().map(profile).collect();
                profiles.rotate_left(rival % ids.len());
                async move { self.store.save_profiles(&profiles).await }
            });
            let answers: Vec<Result<Vec<KeyId>, StoreError>> = join_all(rivals).await;
            let mut winners = Vec::new();
            for (rival, saved) in answers.into_iter().enumerate() {
                let saved = ANSWERS.answer(saved, "save_profiles");
                winners.extend(saved.into_iter().map(|id| (id, rival)));
            }
            let read = self.read(&ids).await;
            for id in &ids {
                let of_id: Vec<_> = winners.iter().filter(|(won, _)| won == id).collect();
                ONE_SAVES.holds(of_id.len() == 1, format_args!("saved by {of_id:?}"));
                let kept = read.iter().find(|profile| profile.key == *id);
                let data = kept.map(|profile| (profile.version, usize::from(profile.data[0])));
                ONE_SAVES.holds(
                    data == of_id.first().map(|(_, rival)| (version, *rival)),
                    format_args!("{data:?} after {of_id:?}"),
                );
            }
        }
    }

    async fn a_profile_goes_with_its_key(&self, digests: &mut Digests) {
        let key = named(digests.next(), "watched");
        let change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
        let change = change.create(Action::ISSUED, key.clone());
        let change = change.expect("the suite's records can be kept");
        ANSWERS.answer(self.store.commit(&change).await, "commit");
        let profile = [KeptProfile::new(key.id(), 1, *b"a")];
        self.save(&profile).await;
        let found = ANSWERS.answer(self.store.find(&key.id()).await, "find");
        let version = found.map(|record| record.version());
        ALONE.holds(version == Some(1), format_args!("version {version:?}"));
        let read = self.read(&[key.id()]).await;
        DELETED.holds(read == profile, format_args!("{read:?} before"));
        let change = Change::new(Actor::service("conformance"), UNIX_EPOCH);
        let change = change.delete(Action::PURGED, &key);
        let change = change.expect("the suite's records can be kept");
        ANSWERS.answer(self.store.commit(&change).await, "commit");
        let read = self.read(&[key.id()]).await;
        DELETED.holds(read.is_empty(), format_args!("{read:?} after"));
    }
}
