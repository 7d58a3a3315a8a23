-- Stores the copy of a record that was loaded from its source. KEYS: [1] the copy. ARGV: [1] when it
-- was missed, in us of this server's clock; [2] the longest time that a load may take; [3] the
-- version; [4] the time as of which it was read; [5] its life in ms; [6] the copy.
-- Returns 1 if it is stored, 0 if not, and the time.
--
-- A load that took long may be from before a change whose fence is gone. A clock that was set back
-- would hide that.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local missed = tonumber(ARGV[1])
if now < missed or now - missed > tonumber(ARGV[2]) then return {0, now} end
local life = tonumber(ARGV[5])
local stored = redis.call('GET', KEYS[1])
if stored and #stored >= 16 and string.byte(stored) == 1 then
  local _, flags, version, as_of = struct.unpack('<BBI7I7', stored)
  local its_version = tonumber(ARGV[3])
  if version > its_version then return {0, now} end
  -- A fence of a change without a version, or a newer copy of the same version.
  if (flags == 2 or version == its_version) and as_of >= tonumber(ARGV[4]) then return {0, now} end
  -- The life of a fence is never shortened.
  local left = redis.call('PTTL', KEYS[1])
  if left > life then life = left end
end
redis.call('SET', KEYS[1], ARGV[6], 'PX', life)
return {1, now}
