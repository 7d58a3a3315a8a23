-- Takes all charges, or none. KEYS: distinct budgets. ARGV: [1] the time after which nothing is
-- charged, in us of this server's clock, or 0; then each budget; then 'before' if it shall also be
-- told how they stood.
-- Returns 1 if they were taken, 0 if not, -1 if it is too late; the time; and for each budget what
-- remains, the time until it is full (in us; in ticks for a rate), the us to wait (-1: never), and
-- its early refunds. Then, if asked for, what remained of each before, and the time until full.
--
-- The layouts and the arithmetic are those of refund.lua, written straight down: a function or a
-- table costs as much as the rest. Nothing is written before all is decided, since an error would
-- leave the first writes.
local call, unpack_from, pack, sub = redis.call, struct.unpack, struct.pack, string.sub
local floor, ceil = math.floor, math.ceil
local time = call('TIME')
local now = time[1] * 1000000 + time[2]
local not_after = tonumber(ARGV[1])
if not_after > 0 and now > not_after then return {-1, now} end
local ok, plan, count_of_keys = true, {}, #KEYS
for at = 1, count_of_keys do
  local kind, flags, a, b, cost, need, slot, tick = unpack_from('<BBI7I7I7I7I7I4', ARGV[at + 1])
  local v = call('GET', KEYS[at])
  -- As the budget stands, and as it stands once the cost is taken.
  local left, full, wait, early = b, 0, 0, 0
  local value, life, left_then, full_then, dirty
  if kind == 1 then
    local wide_units, wide_age, used, anchor, lasted, units, older = 2, a < 2147483648 and 4 or 6, 0, 0, 0, 0, 0
    local expires, format
    local from = 37
    if v and #v >= 36 and string.byte(v) == 1 then
      local _
      _, wide_units, wide_age, used, expires, anchor, lasted, units, older = unpack_from('<BBBI7I7I7I4I7B', v)
      local ahead = expires - a - now
      if ahead > 1000000 then
        -- The clock was set back. All slots move with it.
        expires, anchor, dirty = expires - ahead, anchor - ahead, true
      end
      if expires <= now then
        used, units, older, expires = 0, 0, 0, nil
      elseif older > 0 then
        format = wide_age == 4 and (wide_units == 2 and '<I4I2' or wide_units == 4 and '<I4I4' or '<I4I7')
          or wide_units == 2 and '<I6I2' or wide_units == 4 and '<I6I4' or '<I6I7'
        -- Drop what has expired.
        repeat
          local age, expired, next = unpack_from(format, v, from)
          if anchor + age > now then break end
          used, older, from = used - expired, older - 1, next
        until older == 0
      end
    end
    left = b - used
    if expires then
      full = expires - now
      if full > a then full = a end
    end
    if need > b then
      wait = -1
    elseif used + need > b then
      -- The first slot, oldest first, by whose end enough is free.
      local needed, freed, place = used + need - b, 0, from
      wait = full
      for _ = 1, older do
        local age, its_units, next = unpack_from(format, v, place)
        freed, place = freed + its_units, next
        if freed >= needed then
          wait = anchor + age - now
          if wait > a then wait = a end
          break
        end
      end
    end
    if cost > 0 and (wait == 0 or flags == 1) then
      if cost > 4503599627370496 - used then cost = 4503599627370496 - used end
      local tail = older > 0 and sub(v, from) or ''
      local expires_then, goes_on = now + a, false
      if expires then
        local since = now - (expires - a)
        if since < 0 then since = 0 end
        since = since * 1000
        local duration = lasted * tick + (since > slot and slot or since)
        if expires > expires_then then expires_then = expires end
        -- The number of slots has a byte. Many uses within a tick end a slot early.
        if duration < slot or older >= 250 then
          lasted, goes_on = ceil(duration / tick), true
          if lasted > 4294967295 then lasted = 4294967295 end
          units = units + cost
        end
      end
      if not goes_on then
        if expires then
          if older == 0 then anchor = expires end
          local age = expires - anchor
          if units >= 256 ^ wide_units or age >= 256 ^ wide_age then
            -- The slots are written anew, in wider numbers, against the oldest one.
            local slots = {}
            for _ = 1, older do
              local its_age, its_units, next = unpack_from(format, v, from)
              slots[#slots + 1], slots[#slots + 2], from = anchor + its_age, its_units, next
            end
            slots[#slots + 1], slots[#slots + 2] = expires, units
            anchor = slots[1]
            local most = 0
            for place = 1, #slots, 2 do
              slots[place] = slots[place] - anchor
              if slots[place + 1] > most then most = slots[place + 1] end
            end
            wide_units = most < 65536 and 2 or most < 4294967296 and 4 or 7
            wide_age = slots[#slots - 1] < 4294967296 and 4 or 6
            tail = pack('<' .. string.rep('I' .. wide_age .. 'I' .. wide_units, #slots / 2), unpack(slots))
          else
            format = format or (wide_age == 4 and (wide_units == 2 and '<I4I2' or wide_units == 4 and '<I4I4' or '<I4I7')
              or wide_units == 2 and '<I6I2' or wide_units == 4 and '<I6I4' or '<I6I7')
            tail = tail .. pack(format, age, units)
          end
          older = older + 1
        end
        lasted, units = 0, cost
      end
      value = pack('<BBBI7I7I7I4I7B', 1, wide_units, wide_age, used + cost, expires_then, anchor, lasted, units, older) .. tail
      left_then, full_then = left - cost, expires_then - now
      if full_then > a then full_then = a end
      life = ceil((expires_then - now) / 1000) + 1000
    end
    if dirty then
      if expires then
        dirty = pack('<BBBI7I7I7I4I7B', 1, wide_units, wide_age, used, expires, anchor, lasted, units, older) .. (older > 0 and sub(v, from) or '')
      else dirty = nil end
    end
    plan[at] = {value, life, left, full, wait, early, left_then, full_then, dirty, ceil(full / 1000) + 1000}
  elseif kind <= 3 then
    local per, used, last, interval = kind == 2 and 1000 or 125, 0, now, a
    local capacity = a * b
    if v and #v >= 26 then
      local its_kind, its_last, its_used, its_interval, its_early = unpack_from('<BI7I7I7I4', v)
      if (its_kind == 2 or its_kind == 3) and its_interval >= 1 then
        used, interval, early = its_used, its_interval, its_early
        if its_last > now + 1000000 then
          dirty = true -- the clock was set back
        else
          if its_last > now then last = its_last end
          used = used - (last - its_last) * (its_kind == 2 and 1000 or 125)
          if used < 0 then used = 0 end
        end
        if its_kind ~= kind then
          -- From ticks of 1 ns to those of 8 ns, or back.
          if its_kind == 2 then used, interval = ceil(used / 8), ceil(interval / 8)
          else used, interval = used * 8, interval * 8 end
        end
      end
    end
    if dirty then
      dirty = pack('<BI7I7I7I4', kind, last, used, interval, early)
    end
    local stored = used
    if interval ~= a then
      -- The used units stay the same under another interval, rounded up. What would take more than
      -- 52 days to be refilled counts as that.
      local whole = floor(used / interval)
      if whole * a >= 4503599627370496 then used = 4503599627370496
      else
        -- In lowest terms, the product is exact.
        local x, y = a, interval
        while y > 0 do x, y = y, x % y end
        local rest = (used - whole * interval) * (a / x)
        local part = floor(rest / (interval / x))
        if part * (interval / x) < rest then part = part + 1 end
        used = whole * a + part
      end
    end
    if need > b then
      wait = -1
    elseif need > 0 and used + need * a > capacity then
      wait = used + need * a - capacity + (last - now) * per
      if wait > capacity then wait = capacity end
      wait = ceil(wait / per)
    end
    full = used > capacity and capacity or used
    left = floor((capacity - full) / a)
    -- Charges from before an early refund are told a later end than this budget has.
    local longest = early ~= 0 and 2 * capacity or 0
    local early_then = early
    if cost > 0 and (wait == 0 or flags == 1) then
      if interval ~= a then early_then = (early + 2147483648) % 4294967296 end
      local taken = used + (cost > b and b or cost) * a
      local most = used > 2 * capacity and used or 2 * capacity
      if taken > most then taken = most end
      value = pack('<BI7I7I7I4', kind, last, taken, a, early_then)
      if early_then ~= 0 then longest = 2 * capacity end
      life = ceil(((last - now) + (taken > longest and taken or longest) / per) / 1000) + 1000
      full_then = taken > capacity and capacity or taken
      left_then = floor((capacity - full_then) / a)
    end
    plan[at] = {value, life, left, full, wait, early, left_then, full_then, dirty, ceil((stored > longest and stored or longest) / per / 1000) + 1000, early_then}
  else
    local ends, used = 0, 0
    if v and #v >= 15 then
      local its_kind, its_ends, its_used = unpack_from('<BI7I7', v)
      if its_kind == kind then ends, used = its_ends, its_used end
    end
    local length = (kind == 4 and 1 or 28) * 86400000000
    -- The shortest month has 28 days.
    if now >= ends or now < ends - (kind == 4 and 2 or 28) * 86400000000 then
      -- The bounds of a period: of the one that was counted in, and of the one now.
      local function month_around(day)
        local z = day + 719468
        local era = floor(z / 146097)
        local of_era = z - era * 146097
        local year = floor((of_era - floor(of_era / 1460) + floor(of_era / 36524) - floor(of_era / 146096)) / 365)
        local of_year = of_era - (365 * year + floor(year / 4) - floor(year / 100))
        local month = floor((5 * of_year + 2) / 153)
        local base = era * 146097 + year * 365 + floor(year / 4) - floor(year / 100) - 719468
        local first = base + floor((153 * month + 2) / 5)
        if month < 11 then return first, base + floor((153 * (month + 1) + 2) / 5) end
        year = year + 1
        era, year = era + floor(year / 400), year % 400
        return first, era * 146097 + year * 365 + floor(year / 4) - floor(year / 100) - 719468
      end
      local function period(instant)
        local day = floor(instant / 86400000000)
        if kind == 4 then return day * 86400000000, (day + 1) * 86400000000 end
        local first, next = month_around(day)
        return first * 86400000000, next * 86400000000
      end
      if now >= ends then
        local begins
        begins, ends = period(now)
        used, length = 0, ends - begins
      else
        -- A clock that is set back by less than a period does not grant the quota a second time.
        -- One that was set forwards by mistake does not keep the used units until that distant end.
        local begins = period(ends - 1)
        length = ends - begins
        if now < begins then
          local before = period(begins - 1)
          if now < before then
            begins, ends = period(now)
            length, dirty = ends - begins, true
          end
        end
      end
    end
    local until_end = ends - now
    if until_end > length then until_end = length end
    left = b - used
    if used > 0 then full = until_end end
    if need > b then wait = -1
    elseif used + need > b then wait = until_end end
    local to_end = ceil((ends - now) / 1000) + 1000
    if cost > 0 and (wait == 0 or flags == 1) then
      local taken = used + cost
      if taken > 4503599627370496 then taken = 4503599627370496 end
      value, life = pack('<BI7I7', kind, ends, taken), to_end
      left_then, full_then = b - taken, until_end
    end
    if dirty then dirty = pack('<BI7I7', kind, ends, used) end
    plan[at] = {value, life, left, full, wait, early, left_then, full_then, dirty, to_end}
  end
  if wait ~= 0 and flags ~= 1 then ok = false end
end
local out = {ok and 1 or 0, now}
for at = 1, count_of_keys do
  local p = plan[at]
  local left, full, early, value, life = p[3], p[4], p[6], p[9], p[10]
  if ok and p[1] then
    left, full, early, value, life = p[7], p[8], p[11] or early, p[1], p[2]
  end
  if value then call('SET', KEYS[at], value, 'PX', life) end
  if left < 0 then left = 0 end
  local place = at * 4 - 1
  out[place], out[place + 1], out[place + 2], out[place + 3] = left, full, p[5], early
end
if ARGV[count_of_keys + 2] == 'before' then
  for at = 1, count_of_keys do
    out[#out + 1], out[#out + 2] = plan[at][3] < 0 and 0 or plan[at][3], plan[at][4]
  end
end
return out
