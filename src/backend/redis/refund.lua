-- Refunds units of charges that still count, once. KEYS: [1] the note that it was done; then the
-- budgets. ARGV: [1] the time after which nothing is refunded, or 0; [2] the life of the note in
-- ms; then for each refund a budget (its cost: that of the charge; its need: the units to refund)
-- and: the time of the charge, the time for which it counted (in ticks for a rate), the units
-- refunded before, its early refunds, its age by the clock of the caller.
-- Returns 1 if it was done, 0 if it was done before, -1 if it is too late; and the time.
--
-- The state of budgets, one packed string each, and its arithmetic: that of the limiter in memory,
-- in microseconds of this server's clock. Numbers are doubles: every number here is an integer
-- below 2^53.
--
-- A budget comes as one packed argument:
--   kind (1 window, 2 rate in ns, 3 rate in units of 8 ns, 4 UTC day, 5 UTC month), flags,
--   a (period in us, or interval in ticks), b (limit or burst), cost, need,
--   length of a slot in ns, tick of a slot in ns
local BUDGET = '<BBI7I7I7I7I7I4'
-- Window: kind, widths of units and of ages in bytes; used in all; the expiry of the newest slot, the
-- anchor, the duration of that slot in ticks, its units; the number of older slots. The older slots
-- follow, oldest first: the expiry after the anchor, and the units. The anchor is the expiry of a
-- slot before them.
local WINDOW, WINDOW_SIZE = '<BBBI7I7I7I4I7B', 36
-- Rate: kind, and the time of the last change, the used part in ticks, the interval in ticks, and
-- the units that were refunded early.
local RATE, RATE_SIZE = '<BI7I7I7I4', 26
-- Calendar: kind, the end of the period, and the used units.
local CALENDAR, CALENDAR_SIZE = '<BI7I7', 15

local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local pack, unpack_from = struct.pack, struct.unpack
local DAY = 86400000000
-- A clock that is set back by more than this has been corrected; by less, it is only unsteady.
local UNSTEADY = 1000000
local MOST_LASTED = 4294967295
local HALF = 2147483648

-- The first day of the month of a day, and of the next one, in days since 1970. (Civil calendar from
-- days, after Howard Hinnant.)
local function month_around(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local of_era = z - era * 146097
  local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
  local month = floor((5 * of_year + 2) / 153)
  local base = era * 146097 + year * 365 + floor(year / 4) - floor(year / 100) - 719468
  local first = base + floor((153 * month + 2) / 5)
  if month == 11 then
    local next_year = year + 1
    era = era + floor(next_year / 400)
    next_year = next_year % 400
    base = era * 146097 + next_year * 365 + floor(next_year / 4) - floor(next_year / 100) - 719468
    return first, base
  end
  return first, base + floor((153 * (month + 1) + 2) / 5)
end

local function begin_of(kind, at)
  local day = floor(at / DAY)
  if kind == 4 then return day * DAY end
  local first = month_around(day)
  return first * DAY
end

local function end_of(kind, at)
  local day = floor(at / DAY)
  if kind == 4 then return (day + 1) * DAY end
  local _, next = month_around(day)
  return next * DAY
end

local function read_window(s, value, now)
  s.used, s.units, s.lasted, s.older = 0, 0, 0, {}
  if not value or #value < WINDOW_SIZE or string.byte(value) ~= 1 then return end
  local _, wide_units, wide_age, used, expires, anchor, lasted, units, count = unpack_from(WINDOW, value)
  local ahead = expires - s.a - now
  if ahead > UNSTEADY then expires, anchor = expires - ahead, anchor - ahead end
  if expires <= now then return end
  s.expires, s.lasted, s.units, s.used = expires, lasted, units, units
  local format, place = '<I' .. wide_age .. 'I' .. wide_units, WINDOW_SIZE + 1
  for _ = 1, count do
    local age, its_units
    age, its_units, place = unpack_from(format, value, place)
    if anchor + age > now then
      s.older[#s.older + 1], s.older[#s.older + 2] = anchor + age, its_units
      s.used = s.used + its_units
    end
  end
end

local function write_window(s)
  if not s.expires then return nil end
  local older, most = s.older, 0
  local anchor = older[1] or s.expires
  for at = 1, #older, 2 do
    older[at], most = older[at] - anchor, max(most, older[at + 1])
  end
  local wide_units = most < 65536 and 2 or most < 4294967296 and 4 or 7
  local wide_age = max(older[#older - 1] or 0, s.a) < 2147483648 and 4 or 6
  local head = pack(WINDOW, 1, wide_units, wide_age, s.used, s.expires, anchor, s.lasted, s.units, #older / 2)
  if #older == 0 then return head end
  return head .. pack('<' .. string.rep('I' .. wide_age .. 'I' .. wide_units, #older / 2), unpack(older))
end

local function read_rate(s, value, now)
  s.per = s.kind == 2 and 1000 or 125
  s.used, s.last, s.early, s.interval = 0, now, 0, s.a
  if not value or #value < RATE_SIZE then return end
  local kind, last, used, interval, early = unpack_from(RATE, value)
  if kind ~= 2 and kind ~= 3 or interval < 1 then return end
  s.early = early
  if last > now + UNSTEADY then
    s.last = now -- the clock was set back
  else
    s.last = max(last, now)
    used = max(0, used - (s.last - last) * (kind == 2 and 1000 or 125))
  end
  if kind ~= s.kind then
    -- From ticks of 1 ns to those of 8 ns, or back.
    if kind == 2 then used, interval = ceil(used / 8), ceil(interval / 8)
    else used, interval = used * 8, interval * 8 end
  end
  s.interval, s.used = interval, used
end

local function read_calendar(s, value, now)
  s.ends, s.used = 0, 0
  if value and #value >= CALENDAR_SIZE then
    local kind, ends, used = unpack_from(CALENDAR, value)
    if kind == s.kind then s.ends, s.used = ends, used end
  end
  if now >= s.ends then
    s.ends, s.used = end_of(s.kind, now), 0
    return
  end
  -- A clock that is set back by less than a period does not grant the quota a second time. One that
  -- was set forwards by mistake does not keep the used units until that distant end.
  local begins = begin_of(s.kind, s.ends - 1)
  if now < begin_of(s.kind, begins - 1) then s.ends = end_of(s.kind, now) end
end

local function read(key, packed, now)
  local s, _ = {}
  s.kind, _, s.a, s.b, s.cost, s.need = unpack_from(BUDGET, packed)
  local value = redis.call('GET', key)
  if s.kind == 1 then read_window(s, value, now)
  elseif s.kind <= 3 then read_rate(s, value, now)
  else read_calendar(s, value, now) end
  return s
end

-- Returns the state in writing, and its life in ms. A life that is over is that of a whole budget.
local function write(s, now)
  if s.kind == 1 then
    return write_window(s), s.expires and ceil((s.expires - now) / 1000) + 1000 or 0
  end
  if s.kind <= 3 then
    -- Charges from before an early refund are told a later end than this budget has.
    local longest = s.early ~= 0 and 2 * s.a * s.b or 0
    local life = (s.last - now) / 1000 + max(s.used, longest) / s.per / 1000
    -- In the interval that it was taken under.
    return pack(RATE, s.kind, s.last, s.used, s.interval, s.early), ceil(life) + 1000
  end
  return pack(CALENDAR, s.kind, s.ends, s.used), ceil((s.ends - now) / 1000) + 1000
end

local REFUND = '<I7I7I7I4I7'
local call = redis.call
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local not_after = tonumber(ARGV[1])
if not_after > 0 and now > not_after then return {-1, now} end

local function refund_window(s, units, at)
  local older, left = s.older, units
  for slot = 1, #older, 2 do
    if older[slot] >= at + s.a then
      local back = min(older[slot + 1], left)
      older[slot + 1], s.used, left = older[slot + 1] - back, s.used - back, left - back
    end
  end
  if s.expires and s.expires >= at + s.a then
    local back = min(s.units, left)
    s.units, s.used = s.units - back, s.used - back
  end
  -- A slot that had a successor does not go on.
  while s.units == 0 and #older > 0 do
    s.expires, s.units, s.lasted = older[#older - 1], older[#older], MOST_LASTED
    older[#older], older[#older - 1] = nil, nil
  end
  if s.units == 0 then s.expires = nil end
end

local function refund_rate(s, units, at, counts_for, before, early)
  local early_refunds = (s.early - early) % (2 * HALF)
  if s.interval ~= s.a or early_refunds >= HALF then return end
  local per, full_in = s.per, s.used + (s.last - now) * s.per
  local until_in = (at - now) * per + counts_for - early_refunds * s.a
  local own = min(s.cost, s.b) * s.a
  local soonest = max(0, own - (now - at) * per)
  local counts = max(min(max(0, until_in), own), soonest)
  local back = min(units * s.a, max(0, counts - before * s.a))
  local is_last = until_in == full_in + min(before * s.a, own)
  s.used = max(0, s.used - back)
  if not is_last and back > 0 then
    s.early = (s.early + min(ceil(back / s.a), HALF)) % (2 * HALF)
  end
end

-- Several refunds of one budget follow each other.
local states, order = {}, {}
for at = 2, #KEYS do
  local key, packed = KEYS[at], ARGV[at + 1]
  local s = states[key]
  if not s then
    s = read(key, packed, now)
    states[key], order[#order + 1] = s, key
  end
  local _
  _, _, s.a, s.b, s.cost, s.need = unpack_from(BUDGET, packed)
  local charged_at, counts_for, before, early, age = unpack_from(REFUND, packed, 42)
  local is_rate = s.kind == 2 or s.kind == 3
  -- If the clock was set back since, the charge has moved with it. Else it would be taken for a later
  -- one, whose units are in use.
  if s.kind <= 3 and charged_at - (now - age) > UNSTEADY then charged_at = now - age end
  local counts_us = is_rate and ceil(counts_for / s.per) or counts_for
  if charged_at + counts_us > now then
    s.is_changed = true
    if s.kind == 1 then refund_window(s, s.need, charged_at)
    elseif is_rate then refund_rate(s, s.need, charged_at, counts_for, before, early)
    elseif charged_at >= begin_of(s.kind, s.ends - 1) and charged_at < s.ends then
      s.used = max(0, s.used - s.need)
    end
  end
end
local writes = {}
for at = 1, #order do
  local key = order[at]
  local s = states[key]
  if s.is_changed then
    local value, life = write(s, now)
    writes[#writes + 1] = value and {'SET', key, value, 'PX', life} or {'DEL', key}
  end
end
if not call('SET', KEYS[1], '', 'NX', 'PX', ARGV[2]) then return {0, now} end
for at = 1, #writes do call(unpack(writes[at])) end
return {1, now}
