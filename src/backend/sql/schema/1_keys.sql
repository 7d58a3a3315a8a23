CREATE TABLE {keys} (
  id {bytes} NOT NULL PRIMARY KEY,
  verifier {bytes} NOT NULL,
  pepper {text},
  version {integer} NOT NULL,
  account {text} NOT NULL,
  organization {text},
  environment {text},
  prefix {text},
  name {text},
  plan {text},
  scopes {text} NOT NULL DEFAULT '',
  networks {text},
  origins {text},
  limits {text} NOT NULL DEFAULT '{}',
  metadata {text} NOT NULL DEFAULT '{}',
  budget {bytes},
  lineage {bytes},
  created_at {integer},
  not_before {integer},
  expires_at {integer},
  suspended_at {integer},
  suspended_until {integer},
  suspended_reason {text},
  throttled_quota {text},
  throttled_until {integer},
  throttled_reason {text},
  revoked_at {integer},
  revoked_reason {text},
  rotated_from {bytes},
  rotated_to {bytes},
  rotated_at {integer},
  listed_at {integer} NOT NULL,
  head {bytes} NOT NULL,
  CHECK (length(id) = 16 AND length(verifier) = 32 AND version > 0),
  CHECK ((rotated_to IS NULL) = (rotated_at IS NULL)),
  CHECK ((throttled_quota IS NULL) = (throttled_until IS NULL))
){strict};
CREATE INDEX "{prefix}keys_by_account" ON {keys} (account, listed_at, id);
CREATE INDEX "{prefix}keys_by_age" ON {keys} (listed_at, id);
CREATE INDEX "{prefix}keys_ending" ON {keys} (expires_at, id) WHERE expires_at IS NOT NULL;
CREATE INDEX "{prefix}keys_ending_by_account" ON {keys} (account, expires_at, id) WHERE expires_at IS NOT NULL;
CREATE INDEX "{prefix}keys_unrevoked" ON {keys} (account, expires_at) WHERE revoked_at IS NULL;
CREATE INDEX "{prefix}keys_by_lineage" ON {keys} (lineage) WHERE lineage IS NOT NULL;
CREATE INDEX "{prefix}keys_revoked" ON {keys} (revoked_at, id) WHERE revoked_at IS NOT NULL;
CREATE INDEX "{prefix}keys_revoked_by_account" ON {keys} (account, revoked_at, id) WHERE revoked_at IS NOT NULL;

CREATE TABLE {uses} (
  key_id {bytes} NOT NULL PRIMARY KEY,
  account {text} NOT NULL,
  first_used {integer},
  last_used {integer} NOT NULL DEFAULT 0,
  last_address {text}
){updated};
CREATE INDEX "{prefix}uses_by_last" ON {uses} (last_used, key_id);
CREATE INDEX "{prefix}uses_by_account" ON {uses} (account, last_used, key_id);

CREATE TABLE {usage} (
  account {text} NOT NULL,
  hours {integer} NOT NULL,
  begins {integer} NOT NULL,
  key_id {bytes} NOT NULL,
  environment {text} NOT NULL,
  unit {text} NOT NULL,
  lineage {bytes} NOT NULL,
  allowed {integer} NOT NULL,
  limited {integer} NOT NULL,
  refused {integer} NOT NULL,
  units {integer} NOT NULL,
  PRIMARY KEY (account, hours, begins, key_id, environment, unit)
){updated};
CREATE INDEX "{prefix}usage_by_key" ON {usage} (key_id, hours, begins);
CREATE INDEX "{prefix}usage_by_lineage" ON {usage} (lineage, hours, begins);
CREATE INDEX "{prefix}usage_by_time" ON {usage} (hours, begins);

CREATE TABLE {flushes} (
  node {bytes} NOT NULL PRIMARY KEY,
  number {integer} NOT NULL,
  at {integer} NOT NULL
){updated};

CREATE TABLE {profiles} (
  key_id {bytes} NOT NULL PRIMARY KEY,
  version {integer} NOT NULL,
  data {bytes} NOT NULL
){updated};

CREATE TABLE {requests} (
  id {bytes} NOT NULL PRIMARY KEY,
  fingerprint {bytes} NOT NULL,
  key_id {bytes} NOT NULL,
  at {integer} NOT NULL
){strict};
CREATE INDEX "{prefix}requests_by_key" ON {requests} (key_id);

CREATE TABLE {trail} (
  seq {serial},
  change {bytes} NOT NULL,
  at {integer} NOT NULL,
  action {text} NOT NULL,
  key_id {bytes} NOT NULL,
  version {integer} NOT NULL,
  account {text} NOT NULL,
  actor_kind {text} NOT NULL,
  actor_id {text} NOT NULL,
  actor_name {text},
  reason {text},
  request_id {text},
  address {text},
  agent {text},
  diff {text} NOT NULL,
  state {bytes} NOT NULL,
  previous {bytes},
  digest {bytes} NOT NULL,
  {transaction}
  UNIQUE (key_id, version)
){strict};
CREATE INDEX "{prefix}trail_by_account" ON {trail} (account, seq);
CREATE INDEX "{prefix}trail_by_key" ON {trail} (key_id, seq);
CREATE INDEX "{prefix}trail_by_change" ON {trail} (change);
{trail_by_transaction}

CREATE TABLE {stubs} (
  key_id {bytes} NOT NULL PRIMARY KEY,
  version {integer} NOT NULL,
  digest {bytes} NOT NULL,
  at {integer} NOT NULL,
  seal {bytes} NOT NULL
){strict};

CREATE TABLE {events} (
  seq {serial},
  id {text} NOT NULL UNIQUE,
  kind {text} NOT NULL,
  at {integer} NOT NULL,
  key_id {bytes},
  account {text},
  data {text} NOT NULL,
  {transaction}
  CHECK (seq > 0)
){strict};
CREATE INDEX "{prefix}events_by_age" ON {events} (at);
{events_by_transaction}

-- An endpoint without a URL is a sink.
CREATE TABLE {endpoints} (
  id {text} NOT NULL PRIMARY KEY,
  url {text},
  secret_master {text},
  secret_generation {integer},
  previous_master {text},
  previous_generation {integer},
  previous_until {integer},
  account {text},
  kinds {text} NOT NULL DEFAULT '',
  version {integer} NOT NULL,
  created_at {integer} NOT NULL,
  disabled_at {integer},
  disabled_reason {text},
  CHECK ((url IS NULL) = (secret_master IS NULL)),
  CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
){strict};
CREATE INDEX "{prefix}endpoints_by_account" ON {endpoints} (account, id);

-- The attempt is the token of a claim; a replay takes one, too. The step is the number of attempts
-- that were settled with a retry since the delivery was added or replayed; unfinished is the number
-- of those that were claimed since and not settled.
CREATE TABLE {deliveries} (
  event_seq {integer} NOT NULL,
  endpoint_id {text} NOT NULL,
  state {text} NOT NULL,
  attempt {integer} NOT NULL,
  step {integer} NOT NULL,
  unfinished {integer} NOT NULL DEFAULT 0,
  next_at {integer},
  settled_at {integer},
  cause {text},
  PRIMARY KEY (event_seq, endpoint_id),
  CHECK ((state = 'pending') = (next_at IS NOT NULL))
){updated};
CREATE INDEX "{prefix}deliveries_pending" ON {deliveries} (endpoint_id, next_at) WHERE state = 'pending';
CREATE INDEX "{prefix}deliveries_failed" ON {deliveries} (endpoint_id, event_seq) WHERE state = 'failed';
CREATE INDEX "{prefix}deliveries_by_endpoint" ON {deliveries} (endpoint_id, event_seq);

CREATE TABLE {told} (
  id {bytes} NOT NULL PRIMARY KEY,
  at {integer} NOT NULL
){strict};
CREATE INDEX "{prefix}told_by_age" ON {told} (at);

CREATE TABLE {marks} (
  name {text} NOT NULL PRIMARY KEY,
  number {integer} NOT NULL
){strict};
{mark_server}

-- For people: ids in hexadecimal digits, and times that can be read.
CREATE VIEW {keys_readable} AS SELECT
  {hex(}k.id{)hex} AS key_id, k.account, k.organization, k.environment, k.prefix, k.name, k.plan,
  k.scopes, k.networks, k.version, k.suspended_reason, k.revoked_reason,
  {time(}k.created_at{)time} AS created_at,
  {time(}k.not_before{)time} AS not_before,
  {time(}k.expires_at{)time} AS expires_at,
  {time(}k.suspended_at{)time} AS suspended_at,
  {time(}k.suspended_until{)time} AS suspended_until,
  {time(}k.throttled_until{)time} AS throttled_until,
  {time(}k.revoked_at{)time} AS revoked_at,
  {time(}k.rotated_at{)time} AS rotated_at,
  {time(}u.first_used{)time} AS first_used_at,
  {time(}NULLIF(u.last_used, 0){)time} AS last_used_at
FROM {keys} AS k LEFT JOIN {uses} AS u ON u.key_id = k.id;
