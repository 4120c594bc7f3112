"""How much faster is one logit than all of them? (Table 3 and Fig. 1 of the paper.)"""
