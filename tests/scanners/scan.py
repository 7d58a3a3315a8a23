"""Gives the rules of each case to the scanners, or to their engines, and prints what they find.

Standard input is a list of cases, and standard output a list with, for each case and each of its
texts, the keys that were found by scanner.
"""
import json
import os
import sys
import tempfile

import hyperscan
import re2
import yaml
from detect_secrets.core.plugins.util import get_plugins_from_file


def detect_secrets(plugin):
    """The plugin, loaded as detect-secrets does."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'plugin.py')
        with open(path, 'w') as file:
            file.write(plugin)
        detector, = get_plugins_from_file(path)
    return lambda text: [
        found.secret_value for found in detector().analyze_line(filename='-', line=text)
    ]


def re2_engine(regex):
    """The syntax of gitleaks and TruffleHog."""
    return re2.compile(regex).findall


def github(rules):
    """The engine of GitHub. It has no groups, so what stands around a key is found with it."""
    pattern, = yaml.safe_load(rules)['patterns']
    regex = '(?:{start})(?:{pattern})(?:{end})'.format(**pattern['regex'])
    database = hyperscan.Database()
    database.compile(
        expressions=[regex.encode()],
        flags=hyperscan.HS_FLAG_SOM_LEFTMOST,
    )

    def scan(text):
        found = []
        database.scan(
            text.encode(),
            match_event_handler=lambda _id, start, end, _flags, _context:
                found.append(text.encode()[start:end].decode()),
        )
        return found
    return scan


def engines(case):
    trufflehog, = yaml.safe_load(case['trufflehog'])['detectors']
    return {
        'detect-secrets': detect_secrets(case['detect-secrets']),
        'gitleaks': re2_engine(case['gitleaks']),
        'trufflehog': re2_engine(trufflehog['regex']['key']),
        'github': github(case['github']),
    }


def scan(case):
    scanners = engines(case)
    return [{name: find(text) for name, find in scanners.items()} for text in case['texts']]


json.dump([scan(case) for case in json.load(sys.stdin)], sys.stdout)
